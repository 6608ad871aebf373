//! UDP datagrams, as they come and go.

use std::net::{IpAddr, SocketAddr};

/// One or more UDP datagrams, as they came.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    pub remote: SocketAddr,
    /// To which of our addresses they came, if that is known.
    pub local_ip: Option<IpAddr>,
    /// The ECN bits of the IP header.
    pub ecn: u8,
    /// The size of each datagram in `data` but the last, which may be shorter (GRO). 0 if there is
    /// only one.
    pub stride: usize,
    pub data: &'a [u8],
}

/// One or more UDP datagrams to send; their bytes are in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    pub remote: SocketAddr,
    /// From which of our addresses, if that matters.
    pub source_ip: Option<IpAddr>,
    pub ecn: u8,
    /// The size of each datagram but the last, if there are several (GSO).
    pub segment_size: Option<usize>,
}

impl From<&quinn_proto::Transmit> for Transmit {
    fn from(transmit: &quinn_proto::Transmit) -> Self {
        Self {
            remote: transmit.destination,
            source_ip: transmit.src_ip,
            ecn: transmit.ecn.map_or(0, |ecn| ecn as u8),
            segment_size: transmit.segment_size,
        }
    }
}
