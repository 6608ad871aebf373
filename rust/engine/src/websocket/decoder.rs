//! The receiving half.
//!
//! A frame that lies whole in what arrived is given from there, unmasked on the way. What does not is gathered, and text is
//! checked as it comes. What is known to be still to come of a large frame may be read to where it is gathered ("room"). A little input can stand for much content, so one call gives a limited amount ("batch") and holds
//! the rest of its input back until the next.

use super::close::{self, MESSAGE_TOO_BIG};
use super::deflate::{Direction, Fault, Inflater};
use super::gathered::{Gathered, SPARE_LIMIT};
use super::header::{HEADER_LIMIT, Header, Opcode};
use super::{Content, Event, Role, Violation, mask, utf8};

/// Bounds in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Content of a message.
    pub message: usize,
    /// Payload of a frame.
    pub frame: usize,
    /// What one call gives before it holds back the rest; each message counts [`OVERHEAD`] more.
    pub batch: usize,
}

/// What is worth being read apart from what follows it, and the least that is offered for it.
const ROOM: usize = 256 * 1024;

/// What an empty message costs whoever keeps it.
const OVERHEAD: usize = 128;

#[derive(Clone, Copy)]
struct Frame {
    header: Header,
    taken: u64,
}

struct Message {
    text: bool,
    compressed: bool,
    /// Bytes of it that have been given as pieces.
    given: usize,
    /// Some of it has been given, so the rest is given as pieces too.
    in_pieces: bool,
}

pub struct Decoder {
    role: Role,
    limits: Limits,
    inflater: Option<Inflater>,
    /// The beginning of a header whose end has not come.
    head: Vec<u8>,
    frame: Option<Frame>,
    /// The beginning of a control frame's payload.
    control: Gathered,
    message: Option<Message>,
    /// Content of that message.
    gathered: Gathered,
    /// How much of it is known to be text.
    checked: usize,
    streaming: bool,
    /// Input that came when the batch was full.
    held: Vec<u8>,
    batch: usize,
    closed: bool,
    failure: Option<Violation>,
}

impl Decoder {
    /// `deflate` is what the peer's messages may be compressed with.
    pub fn new(role: Role, limits: Limits, deflate: Option<Direction>) -> Self {
        Self {
            role,
            limits,
            inflater: deflate.map(Inflater::new),
            head: Vec::new(),
            frame: None,
            control: Gathered::default(),
            message: None,
            gathered: Gathered::default(),
            checked: 0,
            streaming: false,
            held: Vec::new(),
            batch: 0,
            closed: false,
            failure: None,
        }
    }

    /// Take what arrived and give what it holds, in order. What came before a fault has been given when it is returned, and
    /// from then on it is returned each time. After the peer's close frame, nothing counts.
    pub fn receive(
        &mut self,
        data: &[u8],
        give: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Violation> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.batch = 0;
        let result = if self.held.is_empty() {
            self.read(data, give)
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(data);
            self.read(&held, give)
        };
        let result = result.and_then(|()| self.give_piece(give));
        self.settle(result)
    }

    /// Room for at most so much of what comes next, where all of that is content of a frame that has begun: to be read into, and
    /// then `filled`. It grows with what has come, not with what the peer has announced.
    pub fn room(&mut self, at_most: usize) -> Option<&mut [u8]> {
        let (frame, message) = (self.frame?, self.message.as_ref()?);
        let whole = !(message.compressed || message.in_pieces || self.streaming);
        if !whole || frame.header.opcode.is_control() || !self.held.is_empty() {
            return None;
        }
        let rest = usize::try_from(frame.header.length - frame.taken).unwrap_or(usize::MAX);
        if rest < ROOM / 8 || self.failure.is_some() {
            return None;
        }
        let size = rest.min(at_most).min((2 * self.gathered.len()).max(ROOM));
        Some(self.gathered.spare(size))
    }

    /// So many bytes have been read into the `room`. As `receive`.
    pub fn filled(
        &mut self,
        count: usize,
        give: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Violation> {
        let Some(frame) = self.frame else {
            return Ok(()); // there was no room
        };
        self.batch = 0;
        let key = mask::rotated(frame.header.key, frame.taken);
        self.gathered.filled(count, key);
        let taken = frame.taken + count as u64;
        let done = taken >= frame.header.length;
        self.frame = (!done).then_some(Frame { taken, ..frame });
        let result = self.gathered_more(done && frame.header.fin, give);
        self.settle(result)
    }

    fn settle(&mut self, result: Result<(), Violation>) -> Result<(), Violation> {
        if let Err(failure) = &result {
            self.failure = Some(failure.clone());
            self.gathered = Gathered::default();
            self.held = Vec::new();
        }
        result
    }

    /// Whether input was held back: there is more to give without more coming.
    pub fn has_more(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether the beginning of a message or of a frame has come, and not its end.
    pub fn is_between(&self) -> bool {
        self.message.is_some() || self.frame.is_some() || !self.head.is_empty()
    }

    /// Give messages in pieces as they come (True), or whole. A message that has been begun in pieces goes on so.
    pub fn set_streaming(&mut self, streaming: bool) {
        self.streaming = streaming;
    }

    fn read(&mut self, mut data: &[u8], give: &mut dyn FnMut(Event<'_>)) -> Result<(), Violation> {
        loop {
            let frame = match self.frame {
                Some(frame) => frame,
                None => {
                    if data.is_empty() || self.closed {
                        return Ok(());
                    }
                    if self.batch > self.limits.batch {
                        self.held = data.to_vec();
                        return Ok(());
                    }
                    let Some(header) = self.read_header(&mut data)? else {
                        return Ok(());
                    };
                    self.begin(&header)?;
                    Frame { header, taken: 0 }
                }
            };
            let rest = frame.header.length - frame.taken;
            let size = usize::try_from(rest).map_or(data.len(), |rest| rest.min(data.len()));
            let (payload, after) = data.split_at(size);
            data = after;
            let taken = frame.taken + size as u64;
            let done = taken == frame.header.length;
            let now = Frame { taken, ..frame };
            self.frame = (!done).then_some(now);
            if frame.header.opcode.is_control() {
                self.read_control(frame, payload, done, give)?;
            } else {
                self.read_content(frame, payload, done, give)?;
            }
            if !done {
                return Ok(());
            }
        }
    }

    fn read_header(&mut self, data: &mut &[u8]) -> Result<Option<Header>, Violation> {
        let deflate = self.inflater.is_some();
        if self.head.is_empty() {
            if let Some((header, size)) = Header::read(data, self.role, deflate)? {
                *data = &data[size..];
                return Ok(Some(header));
            }
            self.head.extend_from_slice(data); // shorter than the longest header
            *data = &[];
            return Ok(None);
        }
        let before = self.head.len();
        let more = data.len().min(HEADER_LIMIT - before);
        self.head.extend_from_slice(&data[..more]);
        let Some((header, size)) = Header::read(&self.head, self.role, deflate)? else {
            *data = &data[more..];
            return Ok(None);
        };
        // What was there before was no whole header, so this one ends in `data`.
        *data = &data[size - before..];
        self.head.clear();
        Ok(Some(header))
    }

    /// A frame begins: may it, here, and be so long?
    fn begin(&mut self, header: &Header) -> Result<(), Violation> {
        if header.opcode.is_control() {
            return Ok(());
        }
        let continues = header.opcode == Opcode::Continuation;
        if continues != self.message.is_some() {
            let (message, expected, got) = if continues {
                (
                    "a continuation frame continues no message",
                    "a text or binary frame",
                    "a continuation",
                )
            } else {
                (
                    "a message begins within another",
                    "a continuation frame",
                    "a text or binary frame",
                )
            };
            return Err(Violation::protocol(message, "5.4", expected, got));
        }
        if header.length > self.limits.frame as u64 {
            return Err(too_big(
                "a frame is too large",
                self.limits.frame,
                Some(header.length),
            ));
        }
        let message = self.message.get_or_insert(Message {
            text: header.opcode == Opcode::Text,
            compressed: header.compressed,
            given: 0,
            in_pieces: false,
        });
        let size = header
            .length
            .saturating_add((message.given + self.gathered.len()) as u64);
        if !message.compressed && size > self.limits.message as u64 {
            return Err(too_big(
                "a message is too large",
                self.limits.message,
                Some(size),
            ));
        }
        Ok(())
    }

    fn read_control(
        &mut self,
        frame: Frame,
        payload: &[u8],
        done: bool,
        give: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Violation> {
        let key = mask::rotated(frame.header.key, frame.taken);
        self.control.append_masked(payload, key);
        if !done {
            return Ok(());
        }
        self.batch += OVERHEAD;
        match frame.header.opcode {
            Opcode::Ping => give(Event::Ping(self.control.bytes())),
            Opcode::Pong => give(Event::Pong(self.control.bytes())),
            _ => {
                let (code, reason) = close::read(self.control.bytes())?;
                self.closed = true;
                give(Event::Close(code, reason));
            }
        }
        self.control = Gathered::default();
        Ok(())
    }

    fn read_content(
        &mut self,
        frame: Frame,
        payload: &[u8],
        done: bool,
        give: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Violation> {
        let last = done && frame.header.fin;
        let Some(message) = &mut self.message else {
            return Ok(()); // `begin` made one
        };
        let whole = last && frame.taken == 0 && frame.header.opcode != Opcode::Continuation;
        if whole && !message.compressed && self.role == Role::Client {
            // Nothing to unmask, nothing before it: it is given from where it lies.
            let text = message.text;
            self.message = None;
            self.batch += payload.len() + OVERHEAD;
            give(Event::Message(content(text, payload)?));
            return Ok(());
        }
        self.gathered.begin();
        let key = mask::rotated(frame.header.key, frame.taken);
        if message.compressed {
            let limit = self.limits.message - message.given;
            let mut unmasked = Vec::new();
            let mut payload = payload;
            if self.role == Role::Server {
                unmasked.extend_from_slice(payload);
                mask::apply(&mut unmasked, key);
                payload = &unmasked;
            }
            // A compressed frame is refused where no compression was agreed on.
            if let Some(inflater) = &mut self.inflater {
                self.gathered
                    .with(|output| {
                        inflater.inflate(payload, output, limit)?;
                        match last {
                            true => inflater.finish(output, limit),
                            false => Ok(()),
                        }
                    })
                    .map_err(|fault| refused(fault, self.limits.message))?;
            }
        } else {
            if frame.taken == 0 && !last {
                // Most of a large frame is still to come: room for it at once, if not for more than a spare has.
                let coming = usize::try_from(frame.header.length).unwrap_or(SPARE_LIMIT);
                let come = payload.len();
                if come > 0 {
                    self.gathered.reserve(coming.min(SPARE_LIMIT).min(4 * come));
                }
            }
            match self.role {
                Role::Client => self.gathered.append(payload),
                Role::Server => self.gathered.append_masked(payload, key),
            }
        }
        self.gathered_more(last, give)
    }

    /// Content has come; `last` if it is all of a message.
    fn gathered_more(
        &mut self,
        last: bool,
        give: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Violation> {
        if last {
            return self.finish(give);
        }
        if self.message.as_ref().is_some_and(|message| message.text) {
            self.checked += utf8::checked(&self.gathered.bytes()[self.checked..])?;
        }
        Ok(())
    }

    fn finish(&mut self, give: &mut dyn FnMut(Event<'_>)) -> Result<(), Violation> {
        if let Some(message) = self.message.take() {
            self.batch += self.gathered.len() + OVERHEAD;
            let content = content(message.text, self.gathered.bytes())?;
            give(match message.in_pieces {
                true => Event::Piece(content, true),
                false => Event::Message(content),
            });
        }
        self.checked = 0;
        self.gathered.end();
        Ok(())
    }

    /// What has been gathered of a message, if pieces are wanted. A character whose end has not come stays.
    fn give_piece(&mut self, give: &mut dyn FnMut(Event<'_>)) -> Result<(), Violation> {
        let Some(message) = &mut self.message else {
            return Ok(());
        };
        let size = if message.text {
            self.checked
        } else {
            self.gathered.len()
        };
        if size == 0 || !(self.streaming || message.in_pieces) {
            return Ok(());
        }
        message.in_pieces = true;
        message.given += size;
        self.batch += size + OVERHEAD;
        give(Event::Piece(
            content(message.text, &self.gathered.bytes()[..size])?,
            false,
        ));
        self.gathered.remove(size);
        self.checked = 0;
        Ok(())
    }
}

fn content(text: bool, data: &[u8]) -> Result<Content<'_>, Violation> {
    Ok(match text {
        true => Content::Text(utf8::whole(data)?),
        false => Content::Binary(data),
    })
}

fn too_big(message: &'static str, limit: usize, size: Option<u64>) -> Violation {
    Violation {
        code: MESSAGE_TOO_BIG,
        message,
        expected: format!("at most {limit} bytes"),
        got: size.map_or("more".into(), |size| size.to_string()),
        section: "7.4.1",
    }
}

fn refused(fault: Fault, limit: usize) -> Violation {
    match fault {
        Fault::TooLarge => too_big("a compressed message is too large", limit, None),
        Fault::Corrupt => Violation {
            code: close::INVALID_PAYLOAD,
            message: "a compressed message cannot be decompressed",
            expected: "DEFLATE blocks (RFC 7692 section 7.2.2)".into(),
            got: "other bytes".into(),
            section: "8.1",
        },
    }
}
