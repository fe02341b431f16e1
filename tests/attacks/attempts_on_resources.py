"""Attempts to take more than the limits give, or to lift them, in the form of ``attempts_on_files``.

The child of the board runs under small limits: 1 MiB a file, 2 GiB of memory.
"""

from __future__ import annotations

PYTHON = {
    "memory_of_tensor": "torch.empty(64 * 2**30, dtype=torch.uint8)",
    "memory_of_array": "np.empty(64 * 2**30, dtype=np.uint8)",
    "mmap": "__import__('mmap').mmap(-1, 64 * 2**30)",
    "file": "open('big', 'wb').write(bytes(3 * 2**20))",
    "sparse_file": "open('sparse', 'wb').truncate(3 * 2**20)",
    "tensor_file": "torch.save(torch.zeros(2**20), 'big.pt')",
    "array_file": "np.zeros(2**20).tofile('big.npy')",
    "anonymous_file": "os.write(os.memfd_create('x'), bytes(3 * 2**20)) > 2**20 or 1 / 0",
    "setrlimit": "r = __import__('resource'); r.setrlimit(r.RLIMIT_FSIZE, (2**40, 2**40))",
    "prlimit": "r = __import__('resource'); r.prlimit(0, r.RLIMIT_CPU, (10**6, 10**6))",
    "unlimited_core": "r = __import__('resource'); r.setrlimit(r.RLIMIT_CORE, (2**20, 2**20))",
    "nicer": "os.nice(-5)",
    "priority": "os.setpriority(os.PRIO_PROCESS, 0, -5)",
    "real_time": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
}

NATIVE = {
    "prlimit": "call('prlimit64', 0, 1, memory(((2**40).to_bytes(8, 'little')) * 2), 0)",
    "prlimit_by_number": "call('prlimit64', os.getpid(), 0, memory(((10**6).to_bytes(8, 'little')) * 2), 0)",
    "priority": "call('setpriority', 0, 0, -5)",
    "real_time": "call('sched_setscheduler', 0, 1, memory((1).to_bytes(4, 'little')))",
    "mlockall": "call('mlockall', 3)",
    "memfd": "f = call('memfd_create', 'x', 0); call('ftruncate', f, 3 * 2**20)",
    "mmap": "call('mmap', 0, 64 * 2**30, 3, 0x22, -1, 0)",
    "disk_quota": "call('fallocate', os.open('quota', os.O_CREAT | os.O_RDWR), 0, 0, 3 * 2**20)",
    "io_priority": "call('ioprio_set', 1, 0, 1 << 13 | 4)",
}
