"""TLS options: what is allowed, and what is refused with which words."""

import ssl
from typing import Any

import pytest

from tieline.identity import Identity, Trust
from tieline.protocols.ip import IP
from tieline.protocols.security import PeerAuthentication, SecurityOptions, TLSMetadata, TLSVersion
from tieline.protocols.tcp import TCP
from tieline.protocols.tls import TLS
from tieline.protocols.udp import UDP

IDENTITY = Identity.self_signed("localhost")
CONTEXT = ssl.create_default_context()


def accept(certificates: list[bytes], server_name: str) -> bool:
    return True


def test_defaults_and_stack() -> None:
    assert TLS() == TLS(TCP(IP())) and hash(TLS()) == hash(TLS())
    assert TLS().trust == Trust.system() and TLS().handshake_timeout == 30.0 and TLS().tickets and not TLS().early_data
    stack = TLS(TCP(IP(hop_limit=64)), alpn=["h2", "http/1.1"])
    assert [layer.name for layer in stack.layers] == ["TLS", "TCP", "IP"] and stack.alpn == ("h2", "http/1.1")
    assert stack.find(IP).hop_limit == 64
    assert isinstance(stack, SecurityOptions)


@pytest.mark.parametrize("below", [IP(), UDP(), TCP, None])
def test_tls_stands_on_tcp(below: Any) -> None:
    with pytest.raises(TypeError, match="TLS stands on TCP, got"):
        TLS(below)


def test_options_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        TLS(TCP(), ["h2"])  # type: ignore[call-arg]


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"alpn": "h2"}, TypeError, r"alpn must be a sequence of names, got 'h2'; write \['h2'\]"),
    ({"alpn": [b"h2"]}, TypeError, "each of alpn must be a str, got b'h2'"),
    ({"alpn": [""]}, ValueError, "1 to 255 bytes long, got 0"),
    ({"alpn": ["ü" * 128]}, ValueError, "1 to 255 bytes long, got 256"),
    ({"identity": "cert.pem"}, TypeError, "identity must be an Identity or None, got 'cert.pem'"),
    ({"trust": b"der"}, TypeError, "trust must be a Trust, got b'der'"),
    ({"trust": None}, TypeError, "trust must be a Trust, got None"),
    ({"server_name": ""}, ValueError, "server_name must be a host name"),
    ({"server_name": b"x"}, TypeError, "server_name must be a str or None"),
    ({"peer_authentication": "required"}, TypeError, "must be a PeerAuthentication or None, got 'required'"),
    ({"certificate_validator": True}, TypeError, "must be callable, got True"),
    ({"minimum_version": "TLSv1.2"}, TypeError, "minimum_version must be a TLSVersion or None, got 'TLSv1.2'"),
    (
        {"minimum_version": TLSVersion.TLSv1_0},
        ValueError,
        r"minimum_version=TLSv1.0 is obsolete \(RFC 8996\).*ssl_context",
    ),
    (
        {"maximum_version": TLSVersion.TLSv1_1},
        ValueError,
        r"maximum_version=TLSv1.1 is obsolete \(RFC 8996\).*ssl_context",
    ),
    (
        {"minimum_version": TLSVersion.TLSv1_3, "maximum_version": TLSVersion.TLSv1_2},
        ValueError,
        "minimum_version=TLSv1.3 is above maximum_version=TLSv1.2",
    ),
    ({"cipher_suites": ["RC4-MD5"]}, ValueError, "cipher_suites must be among TLS_AES_256_GCM_SHA384.*got 'RC4-MD5'"),
    (
        {"cipher_suites": ["TLS_AES_128_GCM_SHA256"], "maximum_version": TLSVersion.TLSv1_2},
        ValueError,
        r"none of cipher_suites=\['TLS_AES_128_GCM_SHA256'\] belongs to TLSv1.2",
    ),
    ({"early_data": True, "tickets": False}, ValueError, "early_data=True needs tickets=True, got tickets=False"),
    (
        {"early_data": True, "maximum_version": TLSVersion.TLSv1_2},
        ValueError,
        "needs TLSv1.3, got maximum_version=TLSv1.2",
    ),
    ({"early_data": True, "certificate_validator": accept}, ValueError, "early_data=True would move data before"),
    (
        {"certificate_validator": accept, "trust": Trust.certificates(IDENTITY)},
        ValueError,
        r"certificate_validator=.*accept.*decides in place of trust.*Trust.certificates\(",
    ),
    (
        {"certificate_validator": accept, "trust": Trust.fingerprints(IDENTITY.fingerprint)},
        ValueError,
        r"certificate_validator=.*accept.*decides in place of trust.*Trust.fingerprints\(",
    ),
    (
        {"certificate_validator": accept, "peer_authentication": PeerAuthentication.NONE},
        ValueError,
        "certificate_validator=.*accept.*never asked with peer_authentication=NONE",
    ),
    (
        {"trust": Trust.certificates(IDENTITY), "peer_authentication": PeerAuthentication.NONE},
        ValueError,
        "trust=Trust.certificates.*never looked at with peer_authentication=NONE",
    ),
    ({"handshake_timeout": 0}, ValueError, "handshake_timeout must be a finite number of seconds above 0, got 0"),
    ({"ssl_context": "ctx"}, TypeError, "ssl_context must be an ssl.SSLContext or None, got 'ctx'"),
    *[
        (
            {"ssl_context": CONTEXT, option: value},
            ValueError,
            f"ssl_context=<.*> and {option}=.* exclude each other: {hint}",
        )
        for option, value, hint in [
            ("alpn", ["h2"], "call its set_alpn_protocols"),
            ("identity", IDENTITY, "call its load_cert_chain"),
            ("trust", Trust.certificates(IDENTITY), "call its load_verify_locations"),
            ("peer_authentication", PeerAuthentication.REQUIRED, "set its verify_mode"),
            ("minimum_version", TLSVersion.TLSv1_3, "set its minimum_version"),
            ("maximum_version", TLSVersion.TLSv1_3, "set its maximum_version"),
            ("cipher_suites", ["TLS_AES_128_GCM_SHA256"], "call its set_ciphers"),
            ("tickets", False, "set its num_tickets"),
            ("early_data", True, "the standard library has none"),
            ("keylog_file", "keys.txt", "set its keylog_filename"),
        ]
    ],
]


@pytest.mark.parametrize(("options", "kind", "words"), REFUSED)
def test_refused(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        TLS(**options)


def test_allowed_combinations() -> None:
    TLS(ssl_context=CONTEXT, server_name="a", certificate_validator=accept, handshake_timeout=None)
    TLS(minimum_version=TLSVersion.TLSv1_2, maximum_version=TLSVersion.TLSv1_2)
    TLS(cipher_suites=["TLS_AES_128_GCM_SHA256"], minimum_version=TLSVersion.TLSv1_3, early_data=True)
    TLS(peer_authentication=PeerAuthentication.NONE)
    TLS(certificate_validator=accept, peer_authentication=PeerAuthentication.OPTIONAL)


def test_a_key_is_not_in_the_options_repr() -> None:
    assert repr(IDENTITY.private_key) not in repr(TLS(identity=IDENTITY))


def test_metadata_gives_certificate_objects() -> None:
    metadata = TLSMetadata(version="TLSv1.3", cipher_suite="TLS_AES_128_GCM_SHA256", peer_certificates=(IDENTITY.certificate,))
    (certificate,) = metadata.certificates()
    assert certificate.subject.rfc4514_string() == "CN=localhost"
