//! The close frame's payload and its codes (RFC 6455 sections 5.5.1 and 7.4).

use super::Violation;
use super::header::CONTROL_LIMIT;

pub(crate) const PROTOCOL_ERROR: u16 = 1002;
pub(crate) const INVALID_PAYLOAD: u16 = 1007;
pub(crate) const MESSAGE_TOO_BIG: u16 = 1009;

/// May this code be sent in a close frame? Those that mean that none was received may not, nor unassigned ones.
///
/// 1012 to 1014 have been registered with IANA since the RFC.
pub fn sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The payload of a close frame; None if the code may not be sent, or the reason is too long.
pub fn close_payload(code: Option<u16>, reason: &str) -> Option<Vec<u8>> {
    let Some(code) = code else {
        return reason.is_empty().then(Vec::new);
    };
    if !sendable(code) || reason.len() > CONTROL_LIMIT - 2 {
        return None;
    }
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    Some(payload)
}

pub(crate) fn read(payload: &[u8]) -> Result<(Option<u16>, &str), Violation> {
    let [high, low, reason @ ..] = payload else {
        if payload.is_empty() {
            return Ok((None, ""));
        }
        let message = "a close frame has half a code";
        return Err(Violation::protocol(
            message,
            "5.5.1",
            "none, or 2 bytes",
            "1",
        ));
    };
    let code = u16::from_be_bytes([*high, *low]);
    if !sendable(code) {
        let message = "a close frame has a code that must not be sent";
        let expected = "1000 to 1003, 1007 to 1014, or 3000 to 4999";
        return Err(Violation::protocol(
            message,
            "7.4",
            expected,
            code.to_string(),
        ));
    }
    match simdutf8::basic::from_utf8(reason) {
        Ok(reason) => Ok((Some(code), reason)),
        Err(_) => Err(Violation {
            code: INVALID_PAYLOAD,
            message: "the reason in a close frame is no text",
            expected: "UTF-8".into(),
            got: "other bytes".into(),
            section: "5.5.1",
        }),
    }
}
