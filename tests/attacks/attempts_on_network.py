"""Attempts to reach a socket, in the form of ``attempts_on_files``. All addresses are listeners of the test on this machine."""

from __future__ import annotations

PYTHON = {
    "connect": "__import__('socket').create_connection(('127.0.0.1', port), 2)",
    "raw_socket_object": "__import__('_socket').socket(2, 1).connect(('127.0.0.1', port))",
    "udp": "__import__('socket').socket(2, 2).sendto(b'x', ('127.0.0.1', udp))",
    "unix_stream": "__import__('socket').socket(1, 1).connect(stream)",
    "unix_datagram": "__import__('socket').socket(1, 2).sendto(b'x', datagram)",
    "abstract": "__import__('socket').socket(1, 1).connect(abstract)",
    "pair": "__import__('socket').socketpair()",
    "pair_sends_elsewhere": "__import__('socket').socketpair(1, 2)[0].sendto(b'x', datagram)",
    "bind": "__import__('socket').socket(2, 1).bind(('127.0.0.1', 0))",
    "server": "__import__('socket').create_server(('127.0.0.1', 0))",
    "from_descriptor": "__import__('socket').socket(fileno=os.dup(0))",
    "resolve": "__import__('socket').getaddrinfo('localhost', port)",
    "by_name": "__import__('socket').gethostbyname('localhost')",
    "by_address": "__import__('socket').gethostbyaddr('127.0.0.1')",
    "urllib": "__import__('urllib.request').request.urlopen(f'http://127.0.0.1:{port}', timeout=0.2)",
    "http": "c = __import__('http.client').client.HTTPConnection('127.0.0.1', port, timeout=0.2); c.connect()",
    "ftp": "__import__('ftplib').FTP().connect('127.0.0.1', port, timeout=0.2)",
    "smtp": "__import__('smtplib').SMTP('127.0.0.1', port, timeout=0.2)",
    "imap": "__import__('imaplib').IMAP4('127.0.0.1', port, timeout=0.2)",
    "pop": "__import__('poplib').POP3('127.0.0.1', port, timeout=0.2)",
    "xmlrpc": "__import__('xmlrpc.client').client.ServerProxy(f'http://127.0.0.1:{port}').a()",
    "asyncio": "import asyncio; asyncio.run(asyncio.open_connection('127.0.0.1', port))",
    "asyncio_loop": "import asyncio; asyncio.new_event_loop().close()",
    "listener": "__import__('multiprocessing.connection').connection.Listener(('127.0.0.1', 0)).close()",
    "client": "__import__('multiprocessing.connection').connection.Client(('127.0.0.1', port))",
    "socket_handler": "h = __import__('logging.handlers').handlers.SocketHandler('127.0.0.1', port); h.createSocket(); through = bool(h.sock)",
    "syslog_handler": "h = __import__('logging.handlers').handlers.SysLogHandler(('127.0.0.1', udp)); h.socket.sendto(b'x', ('127.0.0.1', udp))",
    "datagram_handler": "h = __import__('logging.handlers').handlers.DatagramHandler('127.0.0.1', udp); h.send(b'x')",
    "server_class": "__import__('socketserver').TCPServer(('127.0.0.1', 0), None).server_close()",
    "syslog": "s = __import__('syslog'); s.openlog(); __import__('_socket').socketpair()",
    "tcp_store": "from datetime import timedelta as t; torch.distributed.TCPStore('127.0.0.1', port, 2, False, t(seconds=0.3))",
    "tcp_store_server": "from datetime import timedelta as t; torch.distributed.TCPStore('127.0.0.1', 0, 1, True, t(seconds=0.3))",
    "gloo": "torch.distributed.init_process_group('gloo', init_method='file://' + os.path.abspath('store'), rank=0, world_size=1); "
    "torch.distributed.destroy_process_group()",
    "hub": "torch.hub.download_url_to_file(f'http://127.0.0.1:{port}/x', 'x', progress=False)",
    "np_source": "np.lib.npyio.DataSource('.').open(f'http://127.0.0.1:{port}/x.npy')",
    "webbrowser": "w = __import__('webbrowser'); w.register('m', None, w.GenericBrowser(['touch', mark])); through = w.get('m').open('x')",
}

_PAIR = "m = memory(bytes(8)); call('socketpair', 1, 2, 0, m); f = m.raw[0]; "

NATIVE = {
    **{
        f"socket_{name}": f"call('socket', {family}, {kind}, {protocol})"
        for name, family, kind, protocol in (
            ("tcp", 2, 1, 0),
            ("udp", 2, 2, 0),
            ("ping", 2, 2, 1),
            ("raw", 2, 3, 1),
            ("tcp6", 10, 1, 0),
            ("udp6", 10, 2, 0),
            ("unix_stream", 1, 1, 0),
            ("unix_datagram", 1, 2, 0),
            ("unix_packets", 1, 5, 0),
            ("netlink", 16, 3, 0),
            ("packet", 17, 3, 0),
            ("crypto", 38, 5, 0),
            ("vsock", 40, 1, 0),
            ("multipath_tcp", 2, 1, 262),
        )
    },
    "socketpair_stream": "call('socketpair', 1, 1, 0, memory(bytes(8)))",
    "socketpair_datagram": "call('socketpair', 1, 2, 0, memory(bytes(8)))",
    "sendto_of_pair": _PAIR + "call('sendto', f, memory(b'x'), 1, 0, unix_address, len(unix_address) - 1)",
    "connect_of_pair": _PAIR + "call('connect', f, unix_address, len(unix_address) - 1)",
    "bind_of_pair": _PAIR + "reached('bind', f, unix_address, 2)",
    **{
        f"{name}_of_nothing": f"reached('{name}', -1, 0, 0, 0, 0)"
        for name in ("connect", "bind", "listen", "accept", "accept4", "sendto", "sendmsg", "sendmmsg", "recvmsg")
    },
}
