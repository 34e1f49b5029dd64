"""Reads the dump files of smtp-sink."""

import hashlib
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Delivery:
    """One message as a sink took it. Line ends are LF: smtp-sink writes them so."""

    mail: str  # what followed "MAIL FROM:"
    recipients: tuple  # what followed each "RCPT TO:"
    proto: str
    helo: str
    received: str  # the Received: field on top, unfolded; "" if the first field is another
    message_id: str
    content: bytes  # header and body as the upstream got them

    @property
    def lane_id(self):
        """Postlane's id of the message, from its Received: field."""
        found = re.search(r"\bid (\S+?)(?=[;\s])", self.received)
        return found.group(1) if found else ""

    @property
    def body(self):
        return self.content.partition(b"\n\n")[2]

    @property
    def body_digest(self):
        return hashlib.sha256(self.body).hexdigest()

    @property
    def unstamped(self):
        """The content without the field on top."""
        return re.sub(rb"\A[^\n]*\n(?:[ \t][^\n]*\n)*", b"", self.content, count=1)


_RECORD = b"X-Client-Addr: "
_SINK_RECEIVED = re.compile(rb"Received: from [^\n]*\n\tby [^\n]*\(smtp-sink\)[^\n]*\n\t[^\n]*\n")


def read_dump(path):
    """All deliveries in a multi-message dump (`smtp-sink -D`); none if the file was never made."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    if not data:
        return []
    assert data.startswith(_RECORD), f"{path} does not start like a dump: {data[:60]!r}"
    return [_parse(record) for record in data[len(_RECORD) :].split(b"\n" + _RECORD)]


def _parse(record):
    stamp = _SINK_RECEIVED.search(record)
    assert stamp, f"a dump record without smtp-sink's own Received: {record[:300]!r}"
    fields = {}
    for line in record[: stamp.start()].decode(errors="replace").splitlines()[1:]:
        name, _, value = line.partition(": ")
        fields.setdefault(name, []).append(value)
    # A message is followed by one empty line; splitting took its newline except for the last one.
    content = record[stamp.end() :]
    content = content[:-1] if content.endswith(b"\n\n") else content
    header = content.partition(b"\n\n")[0] + b"\n"
    top = re.match(rb"Received:[^\n]*\n(?:[ \t][^\n]*\n)*", header)
    message_id = re.search(rb"^Message-Id: <([^>\n]*)>", header, re.M | re.I)
    return Delivery(
        mail=fields.get("X-Mail-Args", [""])[0],
        recipients=tuple(fields.get("X-Rcpt-Args", [])),
        proto=fields.get("X-Client-Proto", [""])[0],
        helo=fields.get("X-Helo-Args", [""])[0],
        received=re.sub(r"\s+", " ", top.group().decode(errors="replace")) if top else "",
        message_id=message_id.group(1).decode(errors="replace") if message_id else "",
        content=content,
    )
