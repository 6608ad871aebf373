//! Reads numbers from the fuzzer's bytes, until there are none left.

pub(crate) struct Script<'a>(pub(crate) &'a [u8]);

impl<'a> Script<'a> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    pub(crate) fn short(&mut self) -> Option<usize> {
        Some(usize::from(self.byte()?) << 8 | usize::from(self.byte()?))
    }

    /// Up to `count` bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Damage at places that the script names.
pub(crate) fn damage(script: &mut Script<'_>, data: &mut Vec<u8>) {
    let Some(kind) = script.byte() else { return };
    let place = script.short().unwrap_or(0) % (data.len() + 1);
    match kind % 5 {
        0 if place < data.len() => data[place] ^= script.byte().unwrap_or(1),
        1 => data.truncate(place),
        2 => {
            let count = script.byte().unwrap_or(0).into();
            data.splice(place..place, script.bytes(count).iter().copied());
        }
        3 => {
            let end = (place + script.short().unwrap_or(0)).min(data.len());
            data.drain(place..end);
        }
        _ => data.extend_from_within(place..),
    }
}

/// What is sent on a stream, so that the other side knows what must come.
pub(crate) fn pattern(from: usize, count: usize) -> Vec<u8> {
    (from..from + count)
        .map(|at| (at * 7 % 251) as u8)
        .collect()
}
