//! Random scripts for the targets, without libFuzzer: the same ones each time, for about a second each.
//!
//! More of them: `FUZZ_RUNS=1000000`; others: `FUZZ_SEED=2`. A failure says which seed and run it was.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// xorshift64*: as good as needed, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % below
    }
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn drive(target: fn(&[u8]), runs: u64) {
    let seed = number("FUZZ_SEED", 1);
    for run in 0..number("FUZZ_RUNS", runs) {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (run + 1));
        let length = random.next(400);
        let calm = random.next(2) == 0;
        let script: Vec<u8> = (0..length)
            .map(|_| match calm && random.next(3) > 0 {
                true => [0, 10, 11][random.next(3)], // it goes well, or somebody does something
                false => random.next(256) as u8,
            })
            .collect();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&script))) {
            eprintln!("seed {seed}, run {run}: {script:?}");
            resume_unwind(panic);
        }
    }
}

#[test]
fn quic() {
    drive(tieline_fuzz::quic, 3000);
}

#[test]
fn tls() {
    drive(tieline_fuzz::tls, 5000);
}

#[test]
fn websocket() {
    drive(tieline_fuzz::websocket, 50_000);
}
