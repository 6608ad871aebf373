"""Identities and trust: what they accept, what they refuse, and that secrets stay secret."""

import datetime
import ipaddress
import pickle
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tieline.identity import Identity, Trust


@pytest.fixture(scope="module")
def identity() -> Identity:
    return Identity.self_signed("localhost")


def test_self_signed_says_what_servers_and_clients_need() -> None:
    now = datetime.datetime.now(datetime.UTC)
    made = Identity.self_signed("a.example", "127.0.0.1", "::1", "bücher.example", valid_for=datetime.timedelta(days=2))
    (leaf,) = [x509.load_der_x509_certificate(der) for der in made.certificate_chain]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.example", "xn--bcher-kva.example"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert {usage._name for usage in leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value} == {
        "serverAuth",
        "clientAuth",
    }
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    assert datetime.timedelta(minutes=59) < now - leaf.not_valid_before_utc < datetime.timedelta(minutes=61)
    assert datetime.timedelta(days=1, hours=23) < leaf.not_valid_after_utc - now < datetime.timedelta(days=2, hours=1)


def test_self_signed_needs_a_name_and_a_future() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Identity.self_signed()
    with pytest.raises(ValueError, match="valid_for must be above 0"):
        Identity.self_signed("x", valid_for=datetime.timedelta(0))


def test_a_long_name_is_whole_in_the_alternative_names() -> None:
    name = ".".join(["a" * 60] * 3)
    leaf = x509.load_der_x509_certificate(Identity.self_signed(name).certificate)
    assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName) == [name]


def test_the_key_never_shows(identity: Identity) -> None:
    for text in (repr(identity), str(identity), f"{identity}", repr([identity])):
        assert identity.fingerprint in text
        assert "private" not in text and identity.private_key.hex() not in text and repr(identity.private_key) not in text


def test_values_compare_hash_and_travel(identity: Identity) -> None:
    again = Identity.from_pem(*identity.pem())
    assert again == identity and hash(again) == hash(identity) and again != Identity.self_signed("localhost")
    assert pickle.loads(pickle.dumps(identity)) == identity
    assert identity.fingerprint == sha256(identity.certificate).hexdigest()


ED25519 = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
PKCS8, OLD = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL


@pytest.mark.parametrize(("key", "form"), [(ED25519, PKCS8), (RSA, PKCS8), (RSA, OLD)])
def test_other_keys_and_old_forms(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey, form: serialization.PrivateFormat) -> None:
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    signed = builder.sign(key, None if key is ED25519 else hashes.SHA256())
    cert = signed.public_bytes(serialization.Encoding.PEM)
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    assert Identity.from_pem(cert, pem) == Identity.from_pem(cert + pem) == Identity.from_pem(pem + cert)


def test_from_files(identity: Identity, tmp_path: Path) -> None:
    chain, key = identity.pem()
    other = Identity.self_signed("issuer")
    (tmp_path / "chain.pem").write_text("a comment\n" + chain + other.pem()[0])
    (tmp_path / "key.pem").write_text(key)
    (tmp_path / "all.pem").write_text(key + chain)
    loaded = Identity.from_files(tmp_path / "chain.pem", str(tmp_path / "key.pem"))
    assert loaded.certificate_chain == (identity.certificate, other.certificate)
    assert loaded.private_key == identity.private_key and loaded.certificate == identity.certificate
    assert Identity.from_files(tmp_path / "all.pem") == identity
    with pytest.raises(FileNotFoundError):
        Identity.from_files(tmp_path / "nothing.pem")


@pytest.mark.parametrize("password", ["opensesame", b"opensesame"])
def test_password(identity: Identity, tmp_path: Path, password: str | bytes) -> None:
    key = serialization.load_der_private_key(identity.private_key, None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"opensesame"),
    )
    chain, _ = identity.pem()
    assert Identity.from_pem(chain, locked, password) == identity
    assert Identity.from_pem(*identity.pem(), password) == identity  # not needed: harmless
    with pytest.raises(ValueError, match="encrypted: password must be given"):
        Identity.from_pem(chain, locked)
    with pytest.raises(ValueError, match="cannot be read"):
        Identity.from_pem(chain, locked, "wrong")


def test_mistakes_are_named(identity: Identity, tmp_path: Path) -> None:
    other = Identity.self_signed("other")
    with pytest.raises(ValueError, match=r"private key does not belong to the certificate.*CN=localhost"):
        Identity.from_pem(identity.pem()[0], other.pem()[1])
    with pytest.raises(ValueError, match="private key does not belong"):
        Identity(identity.certificate_chain, other.private_key)
    with pytest.raises(ValueError, match="at least one certificate"):
        Identity((), other.private_key)
    with pytest.raises(ValueError, match="PKCS#8"):
        Identity(identity.certificate_chain, b"junk")
    with pytest.raises(ValueError, match="cert holds no private key"):
        Identity.from_pem(identity.pem()[0])
    with pytest.raises(ValueError, match="cert holds no certificate"):
        Identity.from_pem(identity.pem()[1])
    (tmp_path / "key.pem").write_text(identity.pem()[1])
    with pytest.raises(ValueError, match=r"key\.pem holds no certificate"):
        Identity.from_files(tmp_path / "key.pem")
    with pytest.raises(ValueError, match="cannot be read"):
        Identity.from_pem("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", identity.pem()[1])


def test_trust_accepts_every_form_of_a_certificate(identity: Identity) -> None:
    text, _ = identity.pem()
    same = [
        Trust.certificates(form)
        for form in (
            identity,
            identity.certificate,
            bytearray(identity.certificate),
            text,
            text.encode(),
            x509.load_der_x509_certificate(identity.certificate),
        )
    ]
    assert len(set(same)) == 1 and same[0].values == (identity.certificate,)
    other = Identity.self_signed("other")
    assert Trust.certificates(text + other.pem()[0]) == Trust.certificates(other, identity, identity)
    assert identity.fingerprint in repr(same[0])


def test_fingerprints_are_normalised(identity: Identity) -> None:
    plain = identity.fingerprint
    colons = ":".join(plain[i : i + 2] for i in range(0, 64, 2)).upper()
    assert Trust.fingerprints(plain) == Trust.fingerprints(colons) == Trust.fingerprints(colons, plain)
    assert repr(Trust.fingerprints(colons)) == f"Trust.fingerprints({plain})"
    for wrong in ("", plain[:-2], plain + "00", "zz" * 32, "sha256:" + plain):
        with pytest.raises(ValueError, match="64 hex digits"):
            Trust.fingerprints(wrong)
    with pytest.raises(TypeError, match="text in hex"):
        Trust.fingerprints(bytes(32))  # type: ignore[arg-type]


def test_trust_needs_something_to_trust() -> None:
    for make in (Trust.certificates, Trust.fingerprints):
        with pytest.raises(ValueError, match="needs at least one, got 0"):
            make()
    with pytest.raises(ValueError, match="neither a certificate in DER form nor PEM"):
        Trust.certificates(b"junk")
    with pytest.raises(ValueError, match="no certificate in PEM form"):
        Trust.certificates("/etc/ssl/cert.pem")
    with pytest.raises(TypeError, match="got int"):
        Trust.certificates(7)  # type: ignore[arg-type]
    assert Trust.system() == Trust.system() and repr(Trust.system()) == "Trust.system()"
