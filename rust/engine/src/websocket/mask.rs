//! Masking (RFC 6455 section 5.3), written so that the compiler makes vector instructions of it.

/// The key as it stands for a payload that begins `offset` bytes after the frame's.
pub(crate) fn rotated(key: [u8; 4], offset: u64) -> [u8; 4] {
    let mut key = key;
    key.rotate_left((offset % 4) as usize);
    key
}

/// Copy `source`, masked or unmasked, to `target`, which is as long.
pub(crate) fn copy(target: &mut [u8], source: &[u8], key: [u8; 4]) {
    const LANE: usize = 16;
    let [a, b, c, d] = key;
    let wide = u128::from_ne_bytes([a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d]);
    let (targets, target_rest) = target.as_chunks_mut::<LANE>();
    let (sources, source_rest) = source.as_chunks::<LANE>();
    for (target, source) in targets.iter_mut().zip(sources) {
        *target = (u128::from_ne_bytes(*source) ^ wide).to_ne_bytes();
    }
    for (index, (target, source)) in target_rest.iter_mut().zip(source_rest).enumerate() {
        *target = source ^ key[index % 4];
    }
}

/// The same, to the end of a vector.
pub(crate) fn append(target: &mut Vec<u8>, source: &[u8], key: [u8; 4]) {
    let start = target.len();
    target.resize(start + source.len(), 0);
    copy(&mut target[start..], source, key);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_what_the_rfc_says() {
        // Section 5.7, "a single-frame masked text message".
        let mut text = Vec::new();
        append(
            &mut text,
            &[0x7f, 0x9f, 0x4d, 0x51, 0x58],
            [0x37, 0xfa, 0x21, 0x3d],
        );
        assert_eq!(text, b"Hello");
    }

    #[test]
    fn is_the_same_in_any_pieces() {
        let key = [1, 2, 3, 4];
        let data: Vec<u8> = (0..100).collect();
        let mut whole = Vec::new();
        append(&mut whole, &data, key);
        let naive: Vec<u8> = (0..100).map(|at: u8| at ^ key[at as usize % 4]).collect();
        assert_eq!(whole, naive);
        for cut in 0..=data.len() {
            let mut pieces = Vec::new();
            append(&mut pieces, &data[..cut], key);
            append(&mut pieces, &data[cut..], rotated(key, cut as u64));
            assert_eq!(pieces, whole, "cut at {cut}");
        }
    }
}
