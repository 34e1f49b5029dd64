"""Letters of random text, sent by smtplib, to be compared with what arrives."""

import random
import smtplib
from concurrent.futures import ThreadPoolExecutor

SIZES = (1, 200, 1_000, 1_460, 4_096, 20_000, 65_536, 200_000)
LETTERS = bytes(range(33, 127))


def text(rng, size):
    """Lines of printable ASCII, dots at their beginnings too, `size` octets or a little more, ended by LF."""
    lines, left = [], size
    while left > 0:
        line = bytes(rng.choices(LETTERS, k=min(left, rng.randrange(1, 900))))
        lines.append(b"." + line if rng.random() < 0.1 else line)
        left -= len(line)
    return b"\n".join(lines) + b"\n"


def send_letters(host, port, count, sessions, timeout):
    """Sends `count` letters of all sizes on so many sessions at once; their bodies."""

    def session(number):
        rng, sent = random.Random(number), []
        with smtplib.SMTP(host, port, "letters.test", timeout=timeout) as client:
            for place in range(number, count, sessions):
                body = text(rng, SIZES[(place // sessions) % len(SIZES)])
                letter = f"Subject: {place}\n\n".encode() + body
                client.sendmail("sender@source.test", [f"rcpt{place}@sink.test"], letter.replace(b"\n", b"\r\n"))
                sent.append(body)
        return sent

    with ThreadPoolExecutor(sessions) as pool:
        return [body for bodies in pool.map(session, range(sessions)) for body in bodies]
