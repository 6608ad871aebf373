//! Certificates for tests.
#![allow(dead_code)] // no test uses all of them

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tieline_engine::tls::{CertificateDer, Settings, Trust};

pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Vec<u8>,
}

impl Identity {
    pub(crate) fn leaf(&self) -> CertificateDer<'static> {
        self.chain[0].clone()
    }

    pub(crate) fn pin(&self) -> [u8; 32] {
        digest(&SHA256, &self.chain[0]).as_ref().try_into().unwrap()
    }
}

pub(crate) struct Authority {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    pub(crate) fn issue(&self, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            chain: vec![certificate.der().clone()],
            key: key.serialize_der(),
        }
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::Certificates(vec![self.certificate.clone()])
    }
}

pub(crate) fn params(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

pub(crate) fn self_signed(params: CertificateParams) -> Identity {
    let key = KeyPair::generate().unwrap();
    Identity {
        chain: vec![params.self_signed(&key).unwrap().der().clone()],
        key: key.serialize_der(),
    }
}

pub(crate) fn with_identity(trust: Trust, identity: &Identity) -> Settings {
    let mut settings = Settings::new(trust);
    settings.certificate_chain = identity.chain.clone();
    settings.private_key = Some(identity.key.clone());
    settings
}
