//! Masking keys: unpredictable ones, so that nobody who chooses a payload chooses the bytes on the wire (RFC 6455 section 10.3).

use aws_lc_rs::rand;

/// Taken from the system's generator many at once.
pub(crate) struct Keys {
    pool: [u8; 256],
    used: usize,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self {
            pool: [0; 256],
            used: 256,
        }
    }

    pub(crate) fn next(&mut self) -> [u8; 4] {
        if self.used == self.pool.len() {
            // The generator fails only where the system has none, and then TLS has not come this far either.
            rand::fill(&mut self.pool).expect("the system's random numbers");
            self.used = 0;
        }
        let mut key = [0; 4];
        key.copy_from_slice(&self.pool[self.used..self.used + 4]);
        self.pool[self.used..self.used + 4].fill(0);
        self.used += 4;
        key
    }
}
