"""An HTTPS server with certificates of its own, that answers byte for byte as a test tells it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
from collections import defaultdict

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOST = "pictures.example.com"


def make_certificate(folder, names=(HOST, "*.example.com", "xn--kse-qla.example.com")):
    """Writes cert.pem and key.pem of a certificate that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def answer(body=b"", status="200 OK", *headers):
    """An answer as bytes, with its length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def redirect(location, status="302 Found"):
    return answer(b"", status, f"Location: {location}", "Connection: close")


class Server:
    """Answers each path with bytes, or with what an async function writes.

    Attributes:
        port: Where it listens.
        requests: Lines of each request by path.
        connections: How many have come, by the address they came to.
    """

    def __init__(self, answers):
        self.answers = answers
        self.requests = defaultdict(list)
        self.connections = defaultdict(int)
        self.port = 0

    async def serve(self, reader, writer):
        self.connections[writer.get_extra_info("sockname")[0]] += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
                path = lines[0].split(" ")[1]
                self.requests[path].append(lines)
                told = self.answers[path]
                if callable(told):
                    await told(writer)
                    break
                writer.write(told)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def https_server(folder, answers, addresses=("127.0.0.1",)):
    """Serves `answers` at one port of some loopback addresses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server = Server(answers)
    async with contextlib.AsyncExitStack() as stack:
        for address in addresses:
            listener = await asyncio.start_server(server.serve, address, server.port, ssl=context)
            server.port = listener.sockets[0].getsockname()[1]
            stack.callback(listener.close)
        yield server
