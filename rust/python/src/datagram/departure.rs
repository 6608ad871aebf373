//! Several datagrams to one peer, in as few system calls as the system knows a way for.

use std::ffi::c_int;
use std::io;
use std::net::SocketAddr;

use crate::stream::Raw;

/// A control message: its level, its type and its bytes.
pub(super) type Control = (c_int, c_int, Vec<u8>);

/// What became of some datagrams.
pub(super) struct Departure {
    /// So many of the first have left.
    pub(super) gone: usize,
    /// What the kernel said of the next.
    pub(super) error: Option<io::Error>,
    /// Several can go at once on this way out of the machine.
    pub(super) segments: bool,
}

/// Send them in order, until the kernel takes no more. `to` is None on a connected socket; `segments`: several may go at once.
pub(super) fn send(
    raw: Raw,
    datagrams: &[&[u8]],
    to: Option<SocketAddr>,
    control: &[Control],
    segments: bool,
) -> Departure {
    let mut departure = Departure {
        gone: 0,
        error: None,
        segments,
    };
    let mut apart = 0; // up to here each by itself
    while departure.gone < datagrams.len() {
        let rest = &datagrams[departure.gone..];
        let run = match departure.segments && departure.gone >= apart {
            true => system::at_once(rest),
            false => 1,
        };
        match system::send(raw, &rest[..run], to, control) {
            Ok(()) => departure.gone += run,
            Err(error) if run > 1 && system::is_of_segments(&error) => {
                departure.segments &= !system::is_for_good(&error);
                apart = departure.gone + run; // the kernel tells what it is about, and of which one
            }
            Err(error) => {
                departure.error = Some(error);
                break;
            }
        }
    }
    departure
}

#[cfg(target_os = "linux")]
mod system {
    use std::mem::{MaybeUninit, size_of};

    use tieline_engine::segments;

    use super::*;

    const SOL_UDP: c_int = 17;
    const UDP_SEGMENT: c_int = 103; // linux/udp.h
    const ANCILLARY: usize = 256; // bytes of control messages: the size of segments, and what is said of their packets

    /// Room for control messages, at a place where their headers may begin.
    #[repr(C, align(8))]
    struct Room([u8; ANCILLARY]);

    pub(super) fn at_once(datagrams: &[&[u8]]) -> usize {
        segments::at_once(datagrams.iter().map(|datagram| datagram.len()))
    }

    /// Whether it may be about several at once, and not about what was sent before or where it goes.
    pub(super) fn is_of_segments(error: &io::Error) -> bool {
        matches!(
            error.raw_os_error(),
            Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE)
        )
    }

    /// A network card that cannot checksum segments.
    pub(super) fn is_for_good(error: &io::Error) -> bool {
        error.raw_os_error() == Some(libc::EIO)
    }

    /// Some datagrams of one size, of which the last may be shorter, at once.
    #[expect(unsafe_code)]
    pub(super) fn send(
        raw: Raw,
        datagrams: &[&[u8]],
        to: Option<SocketAddr>,
        control: &[Control],
    ) -> io::Result<()> {
        let mut parts = [const { MaybeUninit::<libc::iovec>::uninit() }; segments::SEGMENTS];
        for (part, datagram) in parts.iter_mut().zip(datagrams) {
            part.write(libc::iovec {
                iov_base: datagram.as_ptr().cast_mut().cast(),
                iov_len: datagram.len(),
            });
        }
        let count = datagrams.len().min(parts.len()); // never more: see `at_once`
        let mut name = to.map(name);
        let mut room = Room([0; ANCILLARY]);
        // SAFETY: a `msghdr` of zeros is one that points to nothing.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        message.msg_iov = parts.as_mut_ptr().cast();
        message.msg_iovlen = count as _; // at most 64, for a type that is not the same everywhere
        if let Some((storage, size)) = &mut name {
            message.msg_name = (&raw mut *storage).cast();
            message.msg_namelen = *size;
        }
        if count > 1 || !control.is_empty() {
            message.msg_control = room.0.as_mut_ptr().cast();
            message.msg_controllen = ANCILLARY as _; // as above
            let segment = u16::try_from(datagrams[0].len()).unwrap_or_default(); // two of more than that do not go at once
            message.msg_controllen = fill(&message, control, (count > 1).then_some(segment))? as _;
        }
        // SAFETY: each pointer is to memory of the length beside it that lives until the call returns, and of `parts` the
        // first `count` are written. The kernel writes to none of them.
        match unsafe { libc::sendmsg(raw, &raw const message, 0) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Write control messages where the message has room for them; how much of that they take.
    #[expect(unsafe_code)]
    fn fill(
        message: &libc::msghdr,
        control: &[Control],
        segment: Option<u16>,
    ) -> io::Result<usize> {
        let segment = segment.map(u16::to_ne_bytes);
        let segment = segment
            .as_ref()
            .map(|size| (SOL_UDP, UDP_SEGMENT, size.as_slice()));
        let control = control
            .iter()
            .map(|(level, kind, data)| (*level, *kind, data.as_slice()));
        let mut filled = 0;
        // SAFETY: `msg_control` is zeroed, aligned for headers and as long as `msg_controllen` says. The macros give the next
        // place within it or null, and the check below is that the data fits, too.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(message);
            for (level, kind, data) in control.chain(segment) {
                let size = data.len() as libc::c_uint; // bytes of an option, at most 16
                filled += libc::CMSG_SPACE(size) as usize;
                if header.is_null() || filled > ANCILLARY {
                    return Err(io::Error::from_raw_os_error(libc::EINVAL));
                }
                (*header).cmsg_level = level;
                (*header).cmsg_type = kind;
                (*header).cmsg_len = libc::CMSG_LEN(size) as _; // of a type that is not the same everywhere
                std::ptr::copy_nonoverlapping(data.as_ptr(), libc::CMSG_DATA(header), data.len());
                header = libc::CMSG_NXTHDR(message, header);
            }
        }
        Ok(filled)
    }

    /// An address as the kernel has it, and its size.
    #[expect(unsafe_code)]
    fn name(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
        // SAFETY: an address of zeros is one of no family.
        let mut storage: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
        let place = &raw mut storage;
        let size = match address {
            SocketAddr::V4(address) => {
                let name = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t, // 2
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(address.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                // SAFETY: the storage is large enough and aligned for each kind of address.
                unsafe { place.cast::<libc::sockaddr_in>().write(name) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(address) => {
                let name = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t, // 10
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo().to_be(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: address.ip().octets(),
                    },
                    sin6_scope_id: address.scope_id(),
                };
                // SAFETY: as above.
                unsafe { place.cast::<libc::sockaddr_in6>().write(name) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage, size as libc::socklen_t) // at most 28
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::*;
    use crate::datagram::descriptor::borrowed;

    pub(super) fn at_once(_: &[&[u8]]) -> usize {
        1
    }

    pub(super) fn is_of_segments(_: &io::Error) -> bool {
        false
    }

    pub(super) fn is_for_good(_: &io::Error) -> bool {
        false
    }

    /// Control messages are only asked for where they can be sent.
    pub(super) fn send(
        raw: Raw,
        datagrams: &[&[u8]],
        to: Option<SocketAddr>,
        _: &[Control],
    ) -> io::Result<()> {
        let socket = borrowed(raw);
        for datagram in datagrams {
            match to {
                Some(to) => socket.send_to(datagram, to)?,
                None => socket.send(datagram)?,
            };
        }
        Ok(())
    }
}
