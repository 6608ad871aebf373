//! One read of a datagram socket, with what the kernel says of it.

use std::ffi::c_int;
use std::io;
use std::net::SocketAddr;

use super::descriptor::borrowed;
use crate::stream::Raw;

/// A control message: its level, its type and its bytes.
pub(super) type Said = (c_int, c_int, Vec<u8>);

pub(super) struct Arrival {
    pub(super) count: usize,
    /// Of the datagrams but the last, if there are several.
    pub(super) segment: usize,
    /// None if it was not asked for, or is none of IP.
    pub(super) peer: Option<SocketAddr>,
    pub(super) said: Vec<Said>,
}

#[cfg(unix)]
mod system {
    use std::mem::{MaybeUninit, size_of};
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

    use super::*;

    const SOL_UDP: c_int = 17;
    const UDP_GRO: c_int = 104; // linux/udp.h
    const ANCILLARY: usize = 128; // bytes of control messages: the size of segments, and what is said of their packets

    /// Room for control messages, at a place where their headers may begin.
    #[repr(C, align(8))]
    struct Control([u8; ANCILLARY]);

    /// Whose datagram it is where `named`, and all that is said of it where `told`.
    #[expect(unsafe_code)]
    pub(crate) fn receive(
        raw: Raw,
        buffer: &mut [u8],
        named: bool,
        told: bool,
    ) -> io::Result<Arrival> {
        let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
        let mut control = Control([0; ANCILLARY]);
        let mut part = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: a `msghdr` of zeros is one that points to nothing.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = ANCILLARY as _; // a small constant, for a type that is not the same everywhere
        if named {
            message.msg_name = name.as_mut_ptr().cast();
            message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t; // 128
        }
        // SAFETY: each pointer is to memory of the length beside it that lives until the call returns.
        let count = unsafe { libc::recvmsg(raw, &raw mut message, 0) };
        let Ok(count) = usize::try_from(count) else {
            return Err(io::Error::last_os_error());
        };
        let mut arrival = Arrival {
            count,
            segment: count,
            peer: None,
            said: Vec::new(),
        };
        if named {
            // SAFETY: all of it was zeroed, and the kernel has written an address or nothing.
            arrival.peer = peer(unsafe { name.assume_init_ref() });
        }
        // SAFETY: the kernel has set the length of what it wrote into `control`, which is aligned for headers, and the
        // macros stay within that length. A header's own length covers the header and its data.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(&raw const message);
            while !header.is_null() {
                let data = libc::CMSG_DATA(header);
                let before = data.offset_from(header.cast::<u8>()) as usize; // the header's own size
                let length = ((*header).cmsg_len as usize).saturating_sub(before);
                let bytes = std::slice::from_raw_parts(data, length);
                let (level, kind) = ((*header).cmsg_level, (*header).cmsg_type);
                if (level, kind) == (SOL_UDP, UDP_GRO) {
                    if let Some(size) = bytes.first_chunk() {
                        arrival.segment = usize::try_from(c_int::from_ne_bytes(*size))
                            .ok()
                            .filter(|size| *size > 0)
                            .unwrap_or(count);
                    }
                } else if told {
                    arrival.said.push((level, kind, bytes.to_vec()));
                }
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
        }
        Ok(arrival)
    }

    #[expect(unsafe_code)]
    fn peer(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
        let place = &raw const *name;
        match c_int::from(name.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says which address it is, and the storage is large enough and aligned for each.
                let name = unsafe { &*place.cast::<libc::sockaddr_in>() };
                let host = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
                let port = u16::from_be(name.sin_port);
                Some(SocketAddrV4::new(host, port).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let name = unsafe { &*place.cast::<libc::sockaddr_in6>() };
                let host = Ipv6Addr::from(name.sin6_addr.s6_addr);
                let port = u16::from_be(name.sin6_port);
                let flow = u32::from_be(name.sin6_flowinfo);
                Some(SocketAddrV6::new(host, port, flow, name.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

#[cfg(windows)]
mod system {
    use super::*;

    pub(crate) fn receive(
        raw: Raw,
        buffer: &mut [u8],
        named: bool,
        _told: bool,
    ) -> io::Result<Arrival> {
        receive_one(raw, buffer, named)
    }
}

pub(super) use system::receive;

/// Of a socket that hands over one datagram at a time, which takes the kernel less.
pub(super) fn receive_one(raw: Raw, buffer: &mut [u8], named: bool) -> io::Result<Arrival> {
    let socket = borrowed(raw);
    let (count, peer) = match named {
        true => socket
            .recv_from(buffer)
            .map(|(count, peer)| (count, Some(peer)))?,
        false => (socket.recv(buffer)?, None),
    };
    Ok(Arrival {
        count,
        segment: count,
        peer,
        said: Vec::new(),
    })
}
