//! Datagrams that Linux takes at once and cuts apart itself (GSO): those of one size, and a shorter one behind them.

/// UDP_MAX_SEGMENTS of Linux before 6.9.
pub const SEGMENTS: usize = 64;
/// Bytes of all together, behind the headers of IPv6 and UDP.
pub const LARGEST: usize = 65535 - 48;

/// How many of the first may go at once, by their sizes: at least one, if there is one.
pub fn at_once(sizes: impl IntoIterator<Item = usize>) -> usize {
    let mut sizes = sizes.into_iter();
    let Some(size) = sizes.next() else {
        return 0;
    };
    let (mut count, mut total) = (1, size);
    for next in sizes.take(SEGMENTS - 1) {
        // An empty datagram is one, and no segment.
        if next > size || next == 0 || next > LARGEST.saturating_sub(total) {
            break;
        }
        count += 1;
        total += next;
        if next < size {
            break; // it marks the end
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(mut sizes: &[usize]) -> Vec<usize> {
        let mut found = Vec::new();
        while !sizes.is_empty() {
            let count = at_once(sizes.iter().copied());
            found.push(count);
            sizes = &sizes[count..];
        }
        found
    }

    #[test]
    fn what_goes_at_once() {
        for (sizes, expected) in [
            (vec![], vec![]),
            (vec![5], vec![1]),
            (vec![5, 5, 5], vec![3]),
            (vec![5, 5, 3, 3, 5], vec![3, 1, 1]), // a shorter one is the last
            (vec![5, 5, 7, 5], vec![2, 2]),
            (vec![0, 0], vec![1, 1]),
            (vec![5, 0, 5], vec![1, 1, 1]),
            (vec![1; SEGMENTS + 1], vec![SEGMENTS, 1]),
            (vec![30_000; 5], vec![2, 2, 1]),
            (vec![LARGEST], vec![1]),
            (vec![LARGEST - 1, 1, 1], vec![2, 1]),
            (vec![usize::MAX, usize::MAX], vec![1, 1]),
            (vec![65_507, 65_507], vec![1, 1]), // more than may go at once: the kernel says what it thinks of them
        ] {
            assert_eq!(runs(&sizes), expected, "{sizes:?}");
        }
    }
}
