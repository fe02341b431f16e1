"""The machinery behind pytest-modeltiers. It knows nothing of pytest.

Importing this package pulls in neither torch nor Lightning; import the room you need, for example
``from harness.config import load_config``.
"""
