//! Masking (RFC 6455 section 5.3), written so that the compiler makes vector instructions of it.

/// The key as it stands for a payload that begins `offset` bytes after the frame's.
pub(crate) fn rotated(key: [u8; 4], offset: u64) -> [u8; 4] {
    let mut key = key;
    key.rotate_left((offset % 4) as usize);
    key
}

const LANE: usize = 16;

fn wide([a, b, c, d]: [u8; 4]) -> u128 {
    u128::from_ne_bytes([a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d])
}

/// Copy `source`, masked or unmasked, to `target`, which is as long.
pub(crate) fn copy(target: &mut [u8], source: &[u8], key: [u8; 4]) {
    let wide = wide(key);
    let (targets, target_rest) = target.as_chunks_mut::<LANE>();
    let (sources, source_rest) = source.as_chunks::<LANE>();
    for (target, source) in targets.iter_mut().zip(sources) {
        *target = (u128::from_ne_bytes(*source) ^ wide).to_ne_bytes();
    }
    for (index, (target, source)) in target_rest.iter_mut().zip(source_rest).enumerate() {
        *target = source ^ key[index % 4];
    }
}

fn in_place(data: &mut [u8], key: [u8; 4]) {
    let wide = wide(key);
    let (lanes, rest) = data.as_chunks_mut::<LANE>();
    for lane in lanes {
        *lane = (u128::from_ne_bytes(*lane) ^ wide).to_ne_bytes();
    }
    for (index, byte) in rest.iter_mut().enumerate() {
        *byte ^= key[index % 4];
    }
}

/// `source`, masked or unmasked, to the end of a vector: in blocks that stay in the processor's cache between the two passes.
pub(crate) fn append(target: &mut Vec<u8>, source: &[u8], key: [u8; 4]) {
    const BLOCK: usize = 8192; // a multiple of the key's length
    target.reserve(source.len());
    for block in source.chunks(BLOCK) {
        let start = target.len();
        target.extend_from_slice(block);
        in_place(&mut target[start..], key);
    }
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
        let data: Vec<u8> = (0..20_000).map(|at: usize| at as u8).collect();
        let mut whole = Vec::new();
        append(&mut whole, &data, key);
        let naive = data.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]);
        assert!(naive.eq(whole.iter().copied()));
        let mut copied = vec![0; data.len()];
        copy(&mut copied, &data, key);
        assert_eq!(copied, whole);
        for cut in (0..100).chain([8191, 8192, 8193, data.len()]) {
            let mut pieces = Vec::new();
            append(&mut pieces, &data[..cut], key);
            append(&mut pieces, &data[cut..], rotated(key, cut as u64));
            assert_eq!(pieces, whole, "cut at {cut}");
        }
    }
}
