//! Two engines in memory.

use tieline_engine::tls::{ClientAuthentication, Config, Engine, Failure, Reason, Settings, Trust};

pub(crate) use crate::identity::*;

pub(crate) fn server(identity: &Identity) -> Config {
    let settings = with_identity(Trust::Anyone, identity);
    Config::server(settings, ClientAuthentication::None).unwrap()
}

pub(crate) fn client(trust: Trust) -> Config {
    Config::client(Settings::new(trust)).unwrap()
}

/// Each side, with the failure that ended it and the plaintext that it got.
pub(crate) struct Pair {
    pub(crate) client: Engine,
    pub(crate) server: Engine,
    pub(crate) client_failure: Option<Failure>,
    pub(crate) server_failure: Option<Failure>,
    pub(crate) to_client: Vec<u8>,
    pub(crate) to_server: Vec<u8>,
}

impl Pair {
    pub(crate) fn new(client: &Config, server: &Config, name: &str) -> Self {
        Self {
            client: Engine::new(client, Some(name)).unwrap(),
            server: Engine::new(server, None).unwrap(),
            client_failure: None,
            server_failure: None,
            to_client: Vec::new(),
            to_server: Vec::new(),
        }
    }

    /// Carry bytes both ways, `size` at once, until nothing moves.
    pub(crate) fn pump(&mut self, size: usize) {
        loop {
            let (up, down) = (take(&mut self.client), take(&mut self.server));
            if up.is_empty() && down.is_empty() {
                return;
            }
            for piece in up.chunks(size) {
                let result = self.server.receive(piece, &mut self.to_server);
                self.server_failure = self.server_failure.take().or(result.err());
            }
            for piece in down.chunks(size) {
                let result = self.client.receive(piece, &mut self.to_client);
                self.client_failure = self.client_failure.take().or(result.err());
            }
        }
    }

    pub(crate) fn connect(client: &Config, server: &Config) -> Self {
        let mut pair = Self::new(client, server, "example.com");
        pair.pump(usize::MAX);
        pair
    }

    pub(crate) fn assert_works(&mut self) {
        assert_eq!(self.client_failure.as_ref().map(|f| &f.message), None);
        assert_eq!(self.server_failure.as_ref().map(|f| &f.message), None);
        let up = send(&mut self.client, b"up");
        self.server.receive(&up, &mut self.to_server).unwrap();
        let down = send(&mut self.server, b"down");
        self.client.receive(&down, &mut self.to_client).unwrap();
        assert!(self.to_server.ends_with(b"up") && self.to_client.ends_with(b"down"));
    }

    #[track_caller]
    pub(crate) fn assert_client_failed(&self, reason: Reason, alert: &str) -> &Failure {
        let failure = self.client_failure.as_ref().expect("the client fails");
        assert_eq!(failure.reason, reason, "{failure}");
        assert_eq!(failure.alert.as_deref(), Some(alert), "{failure}");
        assert!(!failure.received);
        let told = self.server_failure.as_ref().expect("the server is told");
        assert_eq!(told.reason, Reason::AlertReceived);
        assert_eq!(told.alert.as_deref(), Some(alert));
        assert!(told.received);
        failure
    }

    #[track_caller]
    pub(crate) fn assert_server_failed(&self, reason: Reason, alert: &str) -> &Failure {
        let failure = self.server_failure.as_ref().expect("the server fails");
        assert_eq!(failure.reason, reason, "{failure}");
        assert_eq!(failure.alert.as_deref(), Some(alert), "{failure}");
        let told = self.client_failure.as_ref().expect("the client is told");
        assert_eq!(told.alert.as_deref(), Some(alert));
        failure
    }
}

pub(crate) fn take(engine: &mut Engine) -> Vec<u8> {
    let output = engine.output().to_vec();
    engine.clear_output();
    output
}

pub(crate) fn send(engine: &mut Engine, data: &[u8]) -> Vec<u8> {
    let mut sealed = vec![0; engine.sealed_len(data).unwrap()];
    let used = engine.seal(data, &mut sealed).unwrap();
    assert_eq!(used, sealed.len());
    sealed
}

pub(crate) fn receive(engine: &mut Engine, data: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut plaintext = Vec::new();
    engine.receive(data, &mut plaintext).map(|()| plaintext)
}

pub(crate) fn connected() -> Pair {
    let identity = self_signed(params("example.com"));
    let mut pair = Pair::connect(&client(Trust::Anyone), &server(&identity));
    pair.assert_works();
    pair
}
