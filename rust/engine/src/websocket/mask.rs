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

/// The same where it lies.
pub(crate) fn apply(data: &mut [u8], key: [u8; 4]) {
    const LANE: usize = 16;
    let [a, b, c, d] = key;
    let wide = u128::from_ne_bytes([a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d]);
    let (lanes, rest) = data.as_chunks_mut::<LANE>();
    for lane in lanes {
        *lane = (u128::from_ne_bytes(*lane) ^ wide).to_ne_bytes();
    }
    for (index, byte) in rest.iter_mut().enumerate() {
        *byte ^= key[index % 4];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_what_the_rfc_says() {
        // Section 5.7, "a single-frame masked text message".
        let masked = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let mut text = [0; 5];
        copy(&mut text, &masked, key);
        assert_eq!(&text, b"Hello");
        text = masked;
        apply(&mut text, key);
        assert_eq!(&text, b"Hello");
    }

    #[test]
    fn is_the_same_in_any_pieces() {
        let key = [1, 2, 3, 4];
        let data: Vec<u8> = (0..100).collect();
        let naive: Vec<u8> = (0..100).map(|at: u8| at ^ key[at as usize % 4]).collect();
        for cut in 0..=data.len() {
            let mut there = data.clone();
            let (first, second) = there.split_at_mut(cut);
            apply(first, key);
            apply(second, rotated(key, cut as u64));
            assert_eq!(there, naive, "cut at {cut}");
            let mut copied = vec![0; data.len()];
            let (first, second) = copied.split_at_mut(cut);
            copy(first, &data[..cut], key);
            copy(second, &data[cut..], rotated(key, cut as u64));
            assert_eq!(copied, naive, "cut at {cut}");
        }
    }
}
