//! Connection IDs, and where chance comes from.

use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::rand;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

/// Without a server ID, a connection ID is that many random bytes.
const PLAIN_LENGTH: usize = 8;
/// Behind a server ID. The draft wants 4 at least; 6 keep apart what one server ever has.
const NONCE_LENGTH: usize = 6;
/// RFC 9000, section 17.2
pub(crate) const MAXIMUM_LENGTH: usize = 20;

/// What load balancers find in our connection IDs
/// (draft-ietf-quic-load-balancers, section 5.2, the plaintext algorithm):
///
/// ```text
///    3 bits           5 bits               1 to 13 bytes   6 bytes
///  ┌────────────────┬────────────────────┬───────────────┬────────┐
///  │ config rotation│ length of the rest │ server ID     │ nonce  │
///  └────────────────┴────────────────────┴───────────────┴────────┘
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerId {
    rotation: u8,
    id: Vec<u8>,
}

impl ServerId {
    pub fn new(rotation: u8, id: &[u8]) -> Result<Self, String> {
        let longest = MAXIMUM_LENGTH - 1 - NONCE_LENGTH;
        if !(1..=longest).contains(&id.len()) {
            return Err(format!(
                "a server ID has 1 to {longest} bytes, not {}",
                id.len()
            ));
        }
        // 7 says that an ID carries none.
        if rotation > 6 {
            return Err(format!("a config rotation is 0 to 6, not {rotation}"));
        }
        Ok(Self {
            rotation,
            id: id.to_vec(),
        })
    }

    fn first(&self) -> u8 {
        self.rotation << 5 | (self.id.len() + NONCE_LENGTH) as u8
    }
}

/// Random bytes: the system's, or those that a seed determines.
#[derive(Clone)]
pub(crate) struct Random {
    seed: Option<[u8; 32]>,
    purpose: &'static str,
    count: u64,
}

impl Random {
    pub(crate) fn new(seed: Option<[u8; 32]>, purpose: &'static str) -> Self {
        Self {
            seed,
            purpose,
            count: 0,
        }
    }

    pub(crate) fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        if let Some(seed) = &self.seed {
            self.count += 1;
            let mut context = Context::new(&SHA256);
            context.update(seed);
            context.update(self.purpose.as_bytes());
            context.update(&self.count.to_be_bytes());
            bytes.copy_from_slice(context.finish().as_ref()); // SHA-256 has 32 bytes
        } else {
            // aws-lc aborts rather than fail here.
            let _ = rand::fill(&mut bytes);
        }
        bytes
    }
}

pub(crate) struct Generator {
    pub(crate) server_id: Option<ServerId>,
    pub(crate) random: Random,
}

impl ConnectionIdGenerator for Generator {
    fn generate_cid(&mut self) -> ConnectionId {
        let random = self.random.bytes();
        match &self.server_id {
            None => ConnectionId::new(&random[..PLAIN_LENGTH]),
            Some(server) => {
                let mut bytes = vec![server.first()];
                bytes.extend_from_slice(&server.id);
                bytes.extend_from_slice(&random[..NONCE_LENGTH]);
                ConnectionId::new(&bytes)
            }
        }
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        match &self.server_id {
            Some(server)
                if id.first() != Some(&server.first()) || !id[1..].starts_with(&server.id) =>
            {
                Err(InvalidCid)
            }
            _ => Ok(()),
        }
    }

    fn cid_len(&self) -> usize {
        match &self.server_id {
            None => PLAIN_LENGTH,
            Some(server) => 1 + server.id.len() + NONCE_LENGTH,
        }
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_ids() {
        let mut generator = Generator {
            server_id: Some(ServerId::new(2, b"\xca\xfe").expect("valid")),
            random: Random::new(Some([7; 32]), "test"),
        };
        let (one, two) = (generator.generate_cid(), generator.generate_cid());
        assert_ne!(one, two);
        assert_eq!(one.len(), generator.cid_len());
        assert_eq!(one[..3], [2 << 5 | 8, 0xca, 0xfe]);
        assert!(generator.validate(&one).is_ok());
        assert!(generator.validate(&ConnectionId::new(&[0; 9])).is_err());
        assert!(generator.validate(&ConnectionId::new(&[])).is_err());
        assert!(ServerId::new(7, b"x").is_err());
        assert!(ServerId::new(0, b"").is_err());
        assert!(ServerId::new(0, &[0; 14]).is_err());
        assert!(ServerId::new(0, &[0; 13]).is_ok());
    }
}
