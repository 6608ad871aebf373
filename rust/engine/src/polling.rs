//! Busy polling: whether an event loop goes on looking for what comes next, or sleeps until it is woken.
//!
//! To sleep and be woken takes processor time, and the message waits for it. What comes sooner than that is met cheaper awake,
//! and staying awake for as long as sleeping would have cost is at most twice the best that could have been done (Karlin, Li,
//! Manasse, Owicki: "Empirical studies of competitive spinning for a shared-memory multiprocessor", 1991).
//!
//! The loop stays awake by turns: each looks at all descriptors, as any turn does, so nothing else waits for it. An account is
//! kept: a sleep that was spared earns what it would have cost, the time until something came is paid, and beyond what has been
//! earned a hundredth of the time may be spent.

use std::time::{Duration, Instant};

/// So long a loop stays awake for nothing: two processes that wake each other answer within that.
pub const LONGEST: Duration = Duration::from_micros(100);
/// Only what came so soon after what came before is a reason to stay awake: both processes may have slept and worked in between.
const SOON: Duration = Duration::from_micros(500);
/// What it costs to sleep and be woken: on a virtual machine 25 µs of the processor's time, and 30 that what comes has to wait.
const SLEEP: Duration = Duration::from_micros(50);
/// One part of so many of the time may be spent in vain.
const PARTS: u32 = 100;
/// The most that the account holds.
const SAVINGS: Duration = Duration::from_millis(2);
/// Turns without news after which the loop would be asleep: news of the first look are known in the turn after the next.
const ASLEEP: u32 = 2;
/// News in so many turns in a row: the loop has too much to do to sleep, whether it is asked for turns or not.
const BUSY: u32 = 16;
/// It is then left alone for so long, and each time that it was right to do so for twice as long.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(16));

/// What a program wants of the loop when something has come for it.
#[derive(Clone, Copy, Default)]
pub enum Policy {
    /// To stay awake where that pays.
    #[default]
    Adaptive,
    /// To stay awake for so long.
    UpTo(Duration),
}

/// One event loop, while it goes on turning.
struct Awake {
    policy: Policy,
    /// When it had done what there was to do.
    since: Instant,
    /// Turns without news since then.
    quiet: u32,
    /// Turns with news in a row.
    busy: u32,
    /// When the first news since the last turn came.
    news: Option<Instant>,
}

/// One thread and its event loop.
pub struct Polling {
    credit: Duration,
    counted: Option<Instant>,
    last: Option<Instant>,
    awake: Option<Awake>,
    pause: Duration,
    paused_until: Option<Instant>,
}

impl Default for Polling {
    fn default() -> Self {
        Polling {
            credit: SAVINGS,
            counted: None,
            last: None,
            awake: None,
            pause: PAUSES.0,
            paused_until: None,
        }
    }
}

impl Polling {
    /// Something has come. True if the loop is to be asked for a turn, at whose beginning `turn` decides whether another follows.
    pub fn arrived(&mut self, policy: Policy, now: Instant) -> bool {
        if matches!(policy, Policy::UpTo(Duration::ZERO)) {
            return false; // and others go on as if nothing had been
        }
        let before = self.last.replace(now);
        if let Some(awake) = &mut self.awake {
            awake.news.get_or_insert(now);
            awake.policy = policy;
            return false;
        }
        let begins = match policy {
            Policy::UpTo(_) => true,
            Policy::Adaptive => {
                let soon =
                    before.is_some_and(|before| now.saturating_duration_since(before) <= SOON);
                let paused = self.paused_until.is_some_and(|until| now < until);
                soon && !paused && self.affords(now)
            }
        };
        if begins {
            self.awake = Some(Awake {
                policy,
                since: now,
                quiet: 0,
                busy: 0,
                news: Some(now),
            });
        }
        begins
    }

    /// A turn of the loop that was asked for. True if another is to follow.
    pub fn turn(&mut self, now: Instant) -> bool {
        let Some(awake) = &mut self.awake else {
            return false;
        };
        let quiet = awake.quiet;
        let Some(news) = awake.news.take() else {
            awake.quiet += 1;
            awake.busy = 0;
            let (passed, limit) = match awake.policy {
                Policy::Adaptive => (now.saturating_duration_since(awake.since), LONGEST),
                Policy::UpTo(limit) => (now.saturating_duration_since(awake.since), limit),
            };
            if passed < limit {
                return true;
            }
            if let Policy::Adaptive = awake.policy {
                self.credit = self.credit.saturating_sub(passed.min(limit)); // more, if others had the processor
            }
            self.awake = None;
            return false;
        };
        let waited = news.saturating_duration_since(awake.since).min(LONGEST);
        awake.since = now;
        awake.quiet = 0;
        if let Policy::UpTo(_) = awake.policy {
            return true;
        }
        if quiet >= ASLEEP {
            awake.busy = 0;
            self.pause = PAUSES.0;
            self.credit = (self.credit + SLEEP).saturating_sub(waited);
        } else {
            awake.busy += 1;
            if awake.busy >= BUSY {
                self.awake = None;
                self.paused_until = Some(now + self.pause);
                self.pause = (self.pause * 2).min(PAUSES.1);
                return false;
            }
        }
        let goes_on = self.affords(now);
        if !goes_on {
            self.awake = None;
        }
        goes_on
    }

    /// The loop that was to turn is gone.
    pub fn lost(&mut self) {
        self.awake = None;
    }

    fn affords(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.counted.unwrap_or(now));
        self.counted = Some(now);
        self.credit = (self.credit + passed / PARTS).min(SAVINGS);
        self.credit >= LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);
    /// What a turn without news takes.
    const TURN: Duration = Duration::from_micros(5);
    /// What a message takes to be worked on.
    const WORK: Duration = Duration::from_micros(10);

    /// One event loop and its time.
    struct Loop {
        polling: Polling,
        now: Instant,
        turns: u32,
        spared: u32,
        idle: Duration,
    }

    impl Loop {
        fn new() -> Self {
            Loop {
                polling: Polling::default(),
                now: Instant::now(),
                turns: 0,
                spared: 0,
                idle: Duration::ZERO,
            }
        }

        /// A message comes so long after the last was worked on. True if it is met awake.
        fn message(&mut self, policy: Policy, after: Duration) -> bool {
            let comes = self.now + after;
            let mut awake = self.polling.awake.is_some();
            let mut looks = 0;
            while awake {
                // What a look at the descriptors has found is worked on behind the turn that was asked for before.
                let found = comes <= self.now;
                self.turns += 1;
                looks += 1;
                awake = self.polling.turn(self.now);
                if found {
                    break;
                }
                self.now += TURN;
                self.idle += TURN;
            }
            self.spared += u32::from(awake && looks > 1);
            self.now = self.now.max(comes);
            let begins = self.polling.arrived(policy, self.now);
            assert!(!(begins && awake));
            self.now += WORK;
            awake
        }

        fn messages(&mut self, count: u32, after: Duration) -> u32 {
            (0..count)
                .map(|_| u32::from(self.message(Policy::Adaptive, after)))
                .sum()
        }

        /// What staying awake took beyond what it spared.
        fn loss(&self) -> Duration {
            self.idle.saturating_sub(SLEEP * self.spared)
        }
    }

    #[test]
    fn quick_answers_are_met_awake() {
        let mut one = Loop::new();
        assert_eq!(one.messages(1000, 20 * MICROSECOND), 998); // the second comes soon after the first
        assert_eq!(one.loss(), Duration::ZERO);
    }

    #[test]
    fn what_comes_later_costs_a_hundredth() {
        for after in [60, 80, 95, 105, 150, 300, 490] {
            let mut one = Loop::new();
            let begun = one.now;
            one.messages(100_000, after * MICROSECOND);
            let bound = SAVINGS + LONGEST + (one.now - begun) / PARTS * 2; // it is found up to a turn after it came
            assert!(
                one.loss() <= bound,
                "{after} µs: {:?} > {bound:?}",
                one.loss()
            );
        }
    }

    #[test]
    fn what_comes_seldom_is_not_waited_for() {
        let mut one = Loop::new();
        assert_eq!(one.messages(1000, 500 * MICROSECOND), 0);
        assert_eq!(one.turns, 0);
    }

    #[test]
    fn a_loop_that_never_sleeps_is_left_alone() {
        let mut one = Loop::new();
        one.messages(100_000, Duration::ZERO);
        assert!(one.turns < 5000, "{}", one.turns);
        assert!(one.messages(2000, 20 * MICROSECOND) > 1000); // and found again when it would sleep
    }

    #[test]
    fn it_goes_on_after_a_while_in_vain() {
        let mut one = Loop::new();
        one.messages(1000, 150 * MICROSECOND);
        assert!(one.loss() > SAVINGS - LONGEST);
        one.message(Policy::Adaptive, LONGEST * PARTS); // in which enough is spared up for one
        assert!(one.messages(1000, 20 * MICROSECOND) > 950);
    }

    #[test]
    fn a_program_decides_otherwise() {
        let mut one = Loop::new();
        let never = Policy::UpTo(Duration::ZERO);
        assert!((0..100).all(|_| !one.message(never, MICROSECOND)));
        one.messages(10, MICROSECOND);
        one.message(never, MICROSECOND);
        assert!(one.message(Policy::Adaptive, MICROSECOND)); // one does not decide for others
        let longer = Policy::UpTo(150 * MICROSECOND);
        one.message(longer, MICROSECOND);
        assert!((0..100_000).all(|_| one.message(longer, 140 * MICROSECOND)));
        one.message(longer, 300 * MICROSECOND);
        assert!((0..100_000).all(|_| !one.message(longer, 300 * MICROSECOND)));
        assert_eq!(one.polling.credit, SAVINGS); // what it wants is not charged
    }

    #[test]
    fn a_loop_that_is_gone() {
        let mut one = Loop::new();
        one.messages(3, MICROSECOND);
        one.polling.lost();
        assert!(!one.polling.turn(one.now));
        assert!(one.polling.arrived(Policy::Adaptive, one.now)); // asks the next
    }
}
