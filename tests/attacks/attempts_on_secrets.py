"""Attempts to read what the test hid: in its environment, in files outside the project, in other processes.

In the form of ``attempts_on_files``.

``secret`` is the text to find. A line leaves what it read in ``got``; it is through where the secret is in it.
"""

from __future__ import annotations

PYTHON = {
    "environment": "got = str(os.environ)",
    "environment_bytes": "got = str(os.environb)",
    "environment_of_itself": "got = open('/proc/self/environ').read()",
    "environment_of_parent": "got = open(f'/proc/{os.getppid()}/environ').read(); through = 'PATH=' in got",
    "environment_of_another": "got = open(f'/proc/{pid}/environ').read()",
    "environment_by_task": "got = open(f'/proc/{pid}/task/{pid}/environ').read()",
    "environment_by_path": "got = Path(f'/proc/{pid}/environ').read_text()",
    "environments_of_all": "got = ''.join(readable(f) for f in glob.glob('/proc/[0-9]*/environ'))",
    "environment_by_root": "got = open(f'/proc/self/root/proc/{pid}/environ').read()",
    "environment_by_link": "os.symlink(f'/proc/{pid}/environ', 'e'); got = open('e').read()",
    "arguments_of_another": "got = open(f'/proc/{pid}/cmdline').read()",
    "arguments_of_all": "got = ''.join(readable(f) for f in glob.glob('/proc/[0-9]*/cmdline'))",
    "descriptor_of_another": "got = ''.join(readable(f) for f in glob.glob(f'/proc/{pid}/fd/*'))",
    "descriptor_of_parent": "got = ''.join(readable(f) for f in glob.glob(f'/proc/{os.getppid()}/fd/*'))",
    "folder_of_another": "got = open(f'/proc/{pid}/cwd/secret').read()",
    "root_of_another": "got = open(f'/proc/{pid}/root' + hidden).read()",
    "memory_of_another": "got = memory_of(pid)",
    "memory_of_parent": "got = memory_of(os.getppid())",
    "stack_of_another": "got = open(f'/proc/{pid}/maps').read() + secret",
    "inherited_descriptor": "got = ''.join(content_of(f) for f in range(3, 64))",
    "file": "got = open(hidden).read()",
    "path": "got = Path(hidden).read_text()",
    "os_open": "got = os.read(os.open(hidden, os.O_RDONLY), 999).decode()",
    "linecache": "got = str(__import__('linecache').getlines(hidden))",
    "tokenize": "got = __import__('tokenize').open(hidden).read()",
    "fileinput": "got = ''.join(__import__('fileinput').input(hidden))",
    "copied": "shutil.copyfile(hidden, 'copy'); got = open('copy').read()",
    "config_parser": "c = __import__('configparser').ConfigParser(); c.read_file(open(hidden)); got = c['default']['password']",
    "netrc": "got = str(__import__('netrc').netrc(os.path.join(home, '.netrc')).hosts)",
    "ssh_key": "got = open(os.path.join(home, '.ssh', 'id_mark')).read()",
    "cloud": "got = open(os.path.join(home, '.aws', 'credentials')).read()",
    "hub_token": "got = open(os.path.join(home, '.cache', 'huggingface', 'token')).read()",
    "git_config": "got = open(os.path.join(project, '.git', 'config')).read()",
    "dot_env": "got = open(os.path.join(project, '.env')).read()",
    "mmap": "f = open(hidden, 'rb'); m = __import__('mmap'); got = str(m.mmap(f.fileno(), 0, access=m.ACCESS_READ)[:])",
    "np_fromfile": "got = np.fromfile(hidden, np.uint8).tobytes().decode()",
    "np_loadtxt": "got = str(np.loadtxt(hidden, dtype=str, comments=None, delimiter='?'))",
    "np_memmap": "got = np.memmap(hidden, np.uint8, 'r').tobytes().decode()",
    "torch_from_file": "got = bytes(torch.from_file(hidden, size=8, dtype=torch.uint8).tolist()).decode() + secret",
    "torch_file_reader": "got = str(torch.UntypedStorage.from_file(hidden, False, 8)) + secret",
    "zip_import": "got = open(hidden, 'rb').read().decode()",
    "sqlite": "c = __import__('sqlite3').connect(f'file:{hidden}?mode=ro', uri=True); c.execute('select 1'); got = secret",
    "imported": "s = __import__('importlib.machinery').machinery.SourceFileLoader('s', hidden); got = s.get_data(hidden).decode()",
    "sendfile": "os.sendfile(os.open('sent', os.O_CREAT | os.O_RDWR), os.open(hidden, 0), 0, 99); got = open('sent').read()",
    "run_path": "__import__('runpy').run_path(hidden, {'default': 'd', 'password': 'p'}); got = secret",
    "hard_link": "os.link(hidden, 'h'); got = open('h').read()",
}

NATIVE = {
    "openat": "got = native(hidden)",
    "openat_environment": "got = native(f'/proc/{os.getppid()}/environ'); through = 'PATH=' in got",
    "openat_environment_of_another": "got = native(f'/proc/{pid}/environ')",
    "openat_arguments": "got = native(f'/proc/{pid}/cmdline')",
    "openat_by_folder": "f = call('openat', -100, os.path.dirname(hidden), 0o200000); got = native(os.path.basename(hidden), f)",
    "openat_by_path_only": "f = call('openat', -100, hidden, 0o10000000); got = native(f'/proc/self/fd/{f}')",
    "openat_git": "got = native(os.path.join(project, '.git', 'config'))",
    "openat_key": "got = native(os.path.join(home, '.ssh', 'id_mark'))",
    "open_by_handle": "reached('open_by_handle_at', -100, memory(bytes(8)), 0); got = secret",
    "readlink_of_another": "call('readlinkat', -100, f'/proc/{pid}/cwd', memory(bytes(999)), 999); got = secret",
    "process_vm_readv": "got = memory_of(pid, native=True)",
    "ptrace_peek": "call('ptrace', 0x4206, pid, 0, 0); call('ptrace', 17, pid, 0, 0); got = secret",
    "key_of_session": "call('keyctl', 11, -3, memory(bytes(99)), 99, 0); got = secret",
    "shared_memory": "call('shmat', call('shmget', shared, 0, 0), 0, 0o10000); got = secret",
}
