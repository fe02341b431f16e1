"""The rules of the scan: what a model has no need to do, the names that do it, and what was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_SHOWN = 100


@dataclass(frozen=True)
class Rule:
    """A kind of thing that a model has no need to do.

    Attributes:
        reason: What it does, as the end of a sentence that begins with the code.
        grave: Whether it is worth a warning even in a file of the user's own.
    """

    reason: str
    grave: bool = False


RULES = {
    "process": Rule("starts or stops a process", grave=True),
    "network": Rule("reaches the network", grave=True),
    "deletion": Rule("deletes files", grave=True),
    "writing": Rule("writes files or changes them"),
    "native_code": Rule("loads native code", grave=True),
    "unpickling": Rule("unpickles, which runs whatever the data says"),
    "dynamic_code": Rule("makes code from data and runs it"),
    "dynamic_import": Rule("imports what cannot be seen here"),
    "hidden_data": Rule("unpacks data that cannot be read here"),
    "tampering": Rule("changes the interpreter or looks into its frames", grave=True),
    "obfuscation": Rule("reaches a dangerous name indirectly", grave=True),
    "shadowing": Rule("takes the name of an installed module", grave=True),
    "unreadable": Rule("cannot be read as Python"),
    "training": Rule("trains a model"),
    "foreign_file": Rule("is a file that could run code when it is loaded"),
}
"""The rules by name; the same names stand in findings."""


class ScanWarning(UserWarning):
    """A file of the user's own does what no model needs to; it runs all the same."""


@dataclass(frozen=True)
class Finding:
    """Something that a model has no need to do.

    Attributes:
        rule: Name of the rule.
        file: The file.
        line: Line in it, from 1; 0 for the file as a whole.
        subject: The name or construct that was found, such as ``os.system``.
        code: The line of code.
        detail: What more there is to say.
    """

    rule: str
    file: str
    line: int
    subject: str
    code: str = ""
    detail: str = ""

    @property
    def reason(self) -> str:
        """What it does."""
        return RULES[self.rule].reason + (f" ({self.detail})" if self.detail else "")

    @property
    def grave(self) -> bool:
        """Whether it is worth a warning even in a file of the user's own."""
        return RULES[self.rule].grave

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line else self.file
        code = f": {self.code[:_SHOWN]}" if self.code else ""
        return f"{place}: {self.subject} {self.reason} [{self.rule}]{code}"

    def to_json(self) -> dict[str, Any]:
        """The finding as JSON-ready values."""
        return {
            "rule": self.rule,
            "file": self.file,
            "line": self.line,
            "subject": self.subject,
            "reason": self.reason,
            "code": self.code[:_SHOWN],
        }


WHOLE_MODULES = {
    **dict.fromkeys(
        ("subprocess", "_posixsubprocess", "pty", "posix", "nt", "pexpect", "sh", "pip", "multiprocessing"), "process"
    ),
    **dict.fromkeys(("socket", "_socket", "socketserver", "ssl", "http", "urllib3", "requests", "httpx", "aiohttp"), "network"),
    **dict.fromkeys(("ftplib", "smtplib", "poplib", "imaplib", "telnetlib", "nntplib", "xmlrpc", "paramiko"), "network"),
    **dict.fromkeys(("websocket", "websockets", "webbrowser", "boto3"), "network"),
    **dict.fromkeys(("ctypes", "_ctypes", "cffi", "_cffi_backend"), "native_code"),
    **dict.fromkeys(("runpy", "imp", "zipimport", "codeop", "code"), "dynamic_code"),
    **dict.fromkeys(("_thread", "_imp", "_frozen_importlib", "_frozen_importlib_external", "_io"), "obfuscation"),
}
"""Modules of which any use is a finding."""

PARTLY = {
    "os": (
        "process",
        "path environ getenv getcwd sep pathsep linesep altsep extsep curdir pardir name devnull cpu_count process_cpu_count "
        "sched_getaffinity getpid getppid urandom uname times getloadavg listdir scandir walk fspath fsencode fsdecode PathLike stat "
        "access R_OK F_OK get_terminal_size strerror error isatty environb supports_bytes_environ",
    ),
    "sys": (
        "tampering",
        "version version_info hexversion implementation platform path maxsize maxunicode float_info int_info byteorder argv "
        "executable prefix base_prefix exit stdout stderr stdin exc_info getsizeof getrefcount getrecursionlimit "
        "setrecursionlimit intern flags getdefaultencoding getfilesystemencoding stdlib_module_names is_finalizing api_version",
    ),
    "shutil": ("writing", "which get_terminal_size disk_usage"),
    "builtins": (
        "obfuscation",
        "abs all any bool bytes callable dict divmod enumerate filter float format frozenset hash hex id int isinstance issubclass "
        "iter len list map max min next object oct ord pow print property range repr reversed round set slice sorted staticmethod "
        "str sum super tuple type zip",
    ),
    "importlib": ("dynamic_import", "import_module metadata resources util util.find_spec"),
}
"""Modules of which only these names are harmless, and the rule for the rest."""

NAMES = {
    **dict.fromkeys(("os.remove", "os.unlink", "os.rmdir", "os.removedirs", "os.truncate", "shutil.rmtree"), "deletion"),
    **dict.fromkeys(("os.mkdir", "os.makedirs", "os.rename", "os.renames", "os.replace", "os.link", "os.symlink"), "writing"),
    **dict.fromkeys(("os.chmod", "os.chown", "os.mkfifo", "os.mknod", "os.utime", "os.open", "os.write", "os.fdopen"), "writing"),
    **dict.fromkeys(("os.chdir", "os.putenv", "os.umask", "os.dup2"), "tampering"),
    **dict.fromkeys(("shutil.move",), "deletion"),
    **dict.fromkeys(("urllib.request", "urllib.urlopen", "urllib.urlretrieve", "asyncio.open_connection"), "network"),
    **dict.fromkeys(("asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"), "process"),
    **dict.fromkeys(("torch.hub", "torch.utils.model_zoo", "torch.distributed.TCPStore"), "network"),
    **dict.fromkeys(("torch.distributed.init_process_group", "torch.distributed.rpc"), "network"),
    **dict.fromkeys(
        ("torch.multiprocessing.spawn", "torch.multiprocessing.Process", "torch.multiprocessing.start_processes"), "process"
    ),
    **dict.fromkeys(("torch.utils.cpp_extension", "torch.ops.load_library", "torch.classes.load_library"), "native_code"),
    **dict.fromkeys(("torch.jit.load", "torch._C.import_ir_module", "numpy.ctypeslib", "numpy.f2py"), "native_code"),
    **dict.fromkeys(("torch.save", "torch.jit.save", "torch.export.save", "torch.onnx.export", "torch.from_file"), "writing"),
    **dict.fromkeys(("torch._C.PyTorchFileWriter", "torch.package.PackageExporter"), "writing"),
    **dict.fromkeys(("safetensors.torch.save_file", "safetensors.numpy.save_file", "numpy.save", "numpy.savez"), "writing"),
    **dict.fromkeys(("numpy.savez_compressed", "numpy.savetxt", "logging.FileHandler", "sqlite3.connect"), "writing"),
    **dict.fromkeys(
        ("tempfile.NamedTemporaryFile", "tempfile.mkstemp", "tempfile.mkdtemp", "tempfile.TemporaryDirectory"), "writing"
    ),
    **dict.fromkeys(("pickle.load", "pickle.loads", "pickle.Unpickler", "_pickle.load", "_pickle.loads"), "unpickling"),
    **dict.fromkeys(("_pickle.Unpickler", "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads"), "unpickling"),
    **dict.fromkeys(("marshal.load", "marshal.loads", "shelve.open", "joblib.load", "pandas.read_pickle"), "unpickling"),
    **dict.fromkeys(
        ("jsonpickle.decode", "torch.export.load", "torch.package.PackageImporter", "yaml.unsafe_load"), "unpickling"
    ),
    **dict.fromkeys(("yaml.load", "yaml.full_load", "torch.serialization.add_safe_globals"), "unpickling"),
    **dict.fromkeys(("base64.b64decode", "base64.b85decode", "base64.a85decode", "base64.b32decode"), "hidden_data"),
    **dict.fromkeys(("base64.b16decode", "base64.urlsafe_b64decode", "base64.standard_b64decode"), "hidden_data"),
    **dict.fromkeys(("base64.decodebytes", "codecs.decode", "codecs.getdecoder", "binascii.unhexlify"), "hidden_data"),
    **dict.fromkeys(
        ("binascii.a2b_base64", "binascii.a2b_hex", "bytes.fromhex", "bytearray.fromhex", "zlib.decompress"), "hidden_data"
    ),
    **dict.fromkeys(("zlib.decompressobj", "lzma.decompress", "bz2.decompress", "gzip.decompress"), "hidden_data"),
    **dict.fromkeys(("types.CodeType", "types.FunctionType.__call__", "inspect.currentframe", "inspect.stack"), "tampering"),
    **dict.fromkeys(("gc.get_objects", "gc.get_referrers", "atexit.register", "signal.signal", "signal.setitimer"), "tampering"),
    **dict.fromkeys(("signal.alarm", "faulthandler.register", "threading.settrace", "threading.setprofile"), "tampering"),
    **dict.fromkeys(("signal.pthread_kill", "signal.raise_signal"), "process"),
    **dict.fromkeys(("logging.config", "pydoc.locate", "pkgutil.resolve_name"), "dynamic_import"),
    **dict.fromkeys(("timeit.timeit", "timeit.repeat", "cProfile.run", "pdb.run", "trace.Trace"), "dynamic_code"),
    **dict.fromkeys(("pandas.eval", "numexpr.evaluate"), "dynamic_code"),
}
"""Dotted names; what lies below one of them counts as well."""

BUILTINS = {
    **dict.fromkeys(("eval", "exec", "compile", "breakpoint"), "dynamic_code"),
    "__import__": "dynamic_import",
    "open": "writing",
    "__builtins__": "obfuscation",
    "__loader__": "obfuscation",
    "__spec__": "obfuscation",
}
"""Builtin names, and names every module has."""

ATTRIBUTES = {
    **dict.fromkeys(("__subclasses__", "__globals__", "__builtins__", "__loader__", "__spec__", "__import__"), "obfuscation"),
    **dict.fromkeys(("__code__", "__closure__", "f_globals", "f_locals", "f_builtins", "f_back", "tb_frame"), "tampering"),
    **dict.fromkeys(("gi_frame", "cr_frame", "ag_frame", "gi_code", "cr_code", "co_code", "_getframe"), "tampering"),
}
"""Attributes that lead from any object to the interpreter; also as strings."""

METHODS = {
    **dict.fromkeys(
        ("system", "popen", "Popen", "check_output", "check_call", "fork", "posix_spawn", "execv", "execve"), "process"
    ),
    **dict.fromkeys(("urlopen", "urlretrieve", "create_connection", "load_state_dict_from_url"), "network"),
    **dict.fromkeys(("unlink", "rmdir", "rmtree", "removedirs"), "deletion"),
    **dict.fromkeys(("write_text", "write_bytes", "symlink_to", "hardlink_to", "extractall", "to_pickle"), "writing"),
    **dict.fromkeys(("CDLL", "LoadLibrary", "load_library", "dlopen"), "native_code"),
    **dict.fromkeys(("exec_module", "load_module", "import_module", "find_spec_from"), "dynamic_import"),
}
"""Methods only by name, called on an object whose origin is not seen; none of them is a name that tensors or modules have."""

ROUNDABOUT = frozenset({"os", "sys", "subprocess", "builtins", "shutil", "ctypes", "importlib", "socket", "posix"})
"""Modules that other modules have imported, and through which they can be reached: ``torch.os``."""

OS_STARTS = ("system", "popen", "exec", "spawn", "fork", "posix_spawn", "startfile")
"""How the names of ``os`` begin that start processes."""

HARMLESS_CALLS = frozenset(
    {
        *(
            f"{package}.{name}"
            for package in ("multiprocessing", "torch.multiprocessing")
            for name in (
                "cpu_count",
                "current_process",
                "set_start_method",
                "get_start_method",
                "get_context",
                "Value",
                "Lock",
                "RLock",
            )
        ),
        *(f"subprocess.{name}" for name in ("PIPE", "DEVNULL", "STDOUT", "CalledProcessError", "TimeoutExpired", "list2cmdline")),
        *(f"socket.{name}" for name in ("gethostname", "AF_INET", "SOCK_STREAM", "timeout", "error")),
        *(f"requests.{name}" for name in ("exceptions", "exceptions.RequestException", "Timeout")),
        *(f"torch.hub.{name}" for name in ("get_dir", "set_dir")),
        *(f"http.{name}" for name in ("HTTPStatus",)),
    }
)
"""Names of dangerous modules that do nothing by themselves."""
