//! One certificate for all runs of a process.

use std::sync::OnceLock;

use rcgen::{CertificateParams, KeyPair};
use tieline_engine::tls::{CertificateDer, Settings, Trust};

pub(crate) const NAME: &str = "example.com";

struct Identity {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![NAME.to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate");
        Identity {
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
        }
    })
}

pub(crate) fn client() -> Settings {
    let mut settings = Settings::new(Trust::Certificates(vec![identity().certificate.clone()]));
    settings.alpn = vec![b"test".to_vec()];
    settings
}

pub(crate) fn server() -> Settings {
    let mut settings = Settings::new(Trust::Anyone);
    settings.alpn = vec![b"test".to_vec()];
    settings.certificate_chain = vec![identity().certificate.clone()];
    settings.private_key = Some(identity().key.clone());
    settings
}
