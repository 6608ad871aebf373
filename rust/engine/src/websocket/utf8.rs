//! Text that comes in pieces (RFC 6455 section 8.1): a fault is found with the byte that makes it one.

use super::Violation;
use super::close::INVALID_PAYLOAD;

/// How many bytes at the beginning of `data` are whole characters. What follows them is, at most, the beginning of one.
pub(crate) fn checked(data: &[u8]) -> Result<usize, Violation> {
    match simdutf8::compat::from_utf8(data) {
        Ok(_) => Ok(data.len()),
        Err(error) if error.error_len().is_none() => Ok(error.valid_up_to()),
        Err(error) => Err(invalid(&data[error.valid_up_to()..])),
    }
}

/// All of it.
pub(crate) fn whole(data: &[u8]) -> Result<&str, Violation> {
    // This check is the faster one, and says only whether.
    simdutf8::basic::from_utf8(data).map_err(|_| match simdutf8::compat::from_utf8(data) {
        Err(error) => invalid(&data[error.valid_up_to()..]),
        Ok(_) => invalid(data), // the two do not disagree
    })
}

fn invalid(data: &[u8]) -> Violation {
    let shown: Vec<String> = data
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Violation {
        code: INVALID_PAYLOAD,
        message: "a text message is no text",
        expected: "UTF-8".into(),
        got: format!("the bytes {}", shown.join(" ")),
        section: "8.1",
    }
}
