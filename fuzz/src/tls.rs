//! A TLS client and server in memory. The script cuts, damages and adds to what goes between them, and sends from both ends.
//!
//! Whatever it does: nothing panics, a failure stays, and what comes out is the beginning of what was sent.

use std::sync::OnceLock;

use tieline_engine::tls::{ClientAuthentication, Config, Engine};

use crate::identity;
use crate::script::{Script, damage, pattern};

struct Side {
    engine: Engine,
    sent: usize,
    received: Vec<u8>,
    /// Bytes on their way to it.
    wire: Vec<u8>,
}

impl Side {
    fn new(config: &Config, name: Option<&str>) -> Self {
        Self {
            engine: Engine::new(config, name).expect("engine"),
            sent: 0,
            received: Vec::new(),
            wire: Vec::new(),
        }
    }

    fn receive(&mut self, count: usize) {
        let piece: Vec<u8> = self.wire.drain(..count.min(self.wire.len())).collect();
        let failed = self.engine.failed();
        let result = self.engine.receive(&piece, &mut self.received);
        assert!(
            !failed || (result.is_err() && self.engine.failed()),
            "a failure has gone"
        );
    }

    fn send(&mut self, count: usize, wire: &mut Vec<u8>) {
        let data = pattern(self.sent, count);
        if let Ok(size) = self.engine.sealed_len(&data) {
            let mut sealed = vec![0; size];
            if let Ok(used) = self.engine.seal(&data, &mut sealed) {
                assert_eq!(used, size);
                self.sent += count;
                wire.extend(sealed);
            }
        }
    }
}

fn configs() -> &'static (Config, Config) {
    static CONFIGS: OnceLock<(Config, Config)> = OnceLock::new();
    CONFIGS.get_or_init(|| {
        let server = Config::server(identity::server(), ClientAuthentication::None);
        (
            Config::client(identity::client()).expect("client"),
            server.expect("server"),
        )
    })
}

/// The target.
pub fn tls(data: &[u8]) {
    let (client, server) = configs();
    let mut sides = [
        Side::new(client, Some(identity::NAME)),
        Side::new(server, None),
    ];
    let mut script = Script(data);
    while let Some(code) = script.byte() {
        let [first, second] = &mut sides;
        let (side, other) = if code & 1 == 0 {
            (first, second)
        } else {
            (second, first)
        };
        match code >> 1 & 7 {
            0 | 1 => side.receive(usize::MAX),
            2 => side.receive(script.short().unwrap_or(0)),
            3 => damage(&mut script, &mut side.wire),
            4 => side.send(script.short().unwrap_or(0), &mut other.wire),
            5 => drop(side.engine.update_keys()),
            6 => side.engine.close_notify(),
            _ => {
                let count = script.short().unwrap_or(0);
                side.wire.extend_from_slice(script.bytes(count));
            }
        }
        for index in 0..2 {
            let output = sides[index].engine.output().to_vec();
            sides[index].engine.clear_output();
            sides[1 - index].wire.extend(output);
        }
    }
    for side in &mut sides {
        side.receive(usize::MAX);
    }
    for index in 0..2 {
        let received = &sides[index].received;
        assert!(
            received.len() <= sides[1 - index].sent,
            "more than was sent"
        );
        assert_eq!(
            *received,
            pattern(0, received.len()),
            "other bytes than were sent"
        );
    }
}
