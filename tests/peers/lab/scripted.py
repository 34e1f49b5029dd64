"""An upstream of a few lines whose every reply can be bent: for the things no real server can be made to say."""

import socket
import threading

from .ports import free_port


class ScriptedUpstream:
    """Replies are bytes, sent as they are. Records connections, and each message it was sent to the dot."""

    def __init__(self, *, banner=b"220 scripted\r\n", ehlo=b"250-scripted\r\n250 PIPELINING\r\n", final=b"250 2.0.0 Ok\r\n", replies=()):
        self.banner, self.ehlo, self.final = banner, ehlo, final
        # By verb; may be changed while it runs.
        self.replies = {b"EHLO": ehlo, **dict(replies)}
        self.commands = []
        self.connections = 0
        self.messages = []
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=100)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            with connection, connection.makefile("rb") as lines:
                connection.sendall(self.banner)
                for line in lines:
                    verb = line[:4].upper()
                    self.commands.append(line.decode().rstrip("\r\n"))
                    if verb == b"DATA":
                        connection.sendall(b"354 go on\r\n")
                        content = self._content(lines)
                        if content is None:
                            return
                        self.messages.append(content)
                        connection.sendall(self.final)
                    elif verb == b"QUIT":
                        connection.sendall(b"221 2.0.0 Bye\r\n")
                        return
                    else:
                        connection.sendall(self.replies.get(verb, b"250 2.1.0 Ok\r\n"))
        except OSError:
            pass

    @staticmethod
    def _content(lines):
        """The data up to the dot, or None if the connection ends first."""
        content = b""
        for line in lines:
            if line == b".\r\n":
                return content
            content += line
        return None

    def stop(self):
        self._listener.close()
