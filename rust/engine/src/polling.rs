//! Whether to look for the next message before the thread may sleep.
//!
//! To sleep and be woken takes processor time, and the message waits for it. What comes sooner than that is met cheaper by
//! looking for it, and looking for as long as sleeping would have taken costs at most twice the best that could have been
//! done (Karlin, Li, Manasse, Owicki: "Empirical studies of competitive spinning for a shared-memory multiprocessor", 1991).
//! Here each thread keeps an account: a look that finds something earns the sleep that it spared, every look costs its
//! time, and beyond what looking has earned it may cost a hundredth of the time that passes.

use std::time::{Duration, Instant};

/// A look takes so long at most: two processes that wake each other answer within that, once one of them is awake.
pub const LOOK: Duration = Duration::from_micros(100);
/// After a wait that was longer, nothing is expected soon: both processes slept meanwhile, and other tasks had their turn.
const SOON: Duration = Duration::from_micros(200);
/// Processor time that sleeping and being woken take; on a virtual machine more.
const SLEEP: Duration = Duration::from_micros(20);
/// Looking in vain may take one part of so many of the time.
const PARTS: u32 = 100;
/// The most that an account holds.
const SAVINGS: Duration = Duration::from_millis(2);
/// Arrivals in a row after which a descriptor counts as the only one that the thread is busy with.
const ALONE: u32 = 8;

/// What one thread, which runs an event loop, knows of its descriptors.
pub struct Account {
    credit: Duration,
    counted: Option<Instant>,
    /// Whose arrival was the last, and how many in a row were its.
    last: usize,
    row: u32,
}

impl Default for Account {
    fn default() -> Self {
        Account {
            credit: SAVINGS,
            counted: None,
            last: 0,
            row: 0,
        }
    }
}

impl Account {
    fn arrived(&mut self, who: usize) {
        self.row = if self.last == who {
            self.row.saturating_add(1)
        } else {
            1
        };
        self.last = who;
    }

    /// Looking delays whatever else the thread has to do: there should be nothing that we know of.
    fn affords(&mut self, who: usize, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.counted.unwrap_or(now));
        self.counted = Some(now);
        self.credit = (self.credit + passed / PARTS).min(SAVINGS);
        self.last == who && self.row >= ALONE && self.credit >= LOOK
    }

    fn book(&mut self, took: Duration, found: bool) {
        let earned = if found { SLEEP } else { Duration::ZERO };
        self.credit = (self.credit + earned).saturating_sub(took).min(SAVINGS);
    }
}

/// How long the program wants a descriptor to be looked at.
#[derive(Clone, Copy, Default)]
pub enum Policy {
    /// Where that pays.
    #[default]
    Adaptive,
    /// Whenever something is awaited, zero never.
    UpTo(Duration),
}

/// The looks at one descriptor.
#[derive(Default)]
pub struct Looks {
    policy: Policy,
    waits_since: Option<Instant>,
    soon: bool,
}

impl Looks {
    pub fn new(policy: Policy) -> Self {
        Looks {
            policy,
            ..Looks::default()
        }
    }

    /// Something has come.
    pub fn arrived(&mut self, account: &mut Account, who: usize, now: Instant) {
        account.arrived(who);
        let since = self.waits_since.take();
        self.soon = since.is_some_and(|since| now.saturating_duration_since(since) <= SOON);
    }

    /// More is awaited: for how long to look before the thread may sleep, if at all.
    pub fn awaits(&mut self, account: &mut Account, who: usize, now: Instant) -> Option<Duration> {
        self.waits_since = Some(now);
        match self.policy {
            Policy::Adaptive => (self.soon && account.affords(who, now)).then_some(LOOK),
            Policy::UpTo(limit) => (!limit.is_zero()).then_some(limit),
        }
    }

    /// A look has ended.
    pub fn looked(&mut self, account: &mut Account, took: Duration, found: bool) {
        if let Policy::Adaptive = self.policy {
            account.book(took, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    /// One thread and its time.
    struct Thread {
        account: Account,
        now: Instant,
        looked: Duration,
        spared: u32,
    }

    impl Thread {
        fn new() -> Self {
            Thread {
                account: Account::default(),
                now: Instant::now(),
                looked: Duration::ZERO,
                spared: 0,
            }
        }

        /// A message comes at `looks`' descriptor that long after it is awaited. True if it was met awake.
        fn message(&mut self, looks: &mut Looks, who: usize, after: Duration) -> bool {
            let found = match looks.awaits(&mut self.account, who, self.now) {
                None => false,
                Some(limit) => {
                    let found = after <= limit;
                    let took = after.min(limit);
                    looks.looked(&mut self.account, took, found);
                    self.looked += took;
                    self.spared += u32::from(found);
                    found
                }
            };
            self.now += after;
            looks.arrived(&mut self.account, who, self.now);
            found
        }

        /// What looking took beyond what it spared.
        fn loss(&self) -> Duration {
            self.looked.saturating_sub(SLEEP * self.spared)
        }
    }

    #[test]
    fn quick_answers_are_met_awake() {
        let (mut thread, mut looks) = (Thread::new(), Looks::default());
        let met = (0..1000)
            .filter(|_| thread.message(&mut looks, 1, 8 * MICROSECOND))
            .count();
        assert_eq!(met, 1000 - ALONE as usize);
        assert_eq!(thread.loss(), Duration::ZERO);
    }

    #[test]
    fn what_comes_later_costs_a_hundredth() {
        for after in [21, 60, 99, 101, 150, 199] {
            let (mut thread, mut looks) = (Thread::new(), Looks::default());
            let begun = thread.now;
            for _ in 0..100_000 {
                thread.message(&mut looks, 1, after * MICROSECOND);
            }
            let bound = SAVINGS + LOOK + (thread.now - begun) / PARTS;
            assert!(
                thread.loss() <= bound,
                "{after} µs: {:?} > {bound:?}",
                thread.loss()
            );
        }
    }

    #[test]
    fn what_comes_seldom_is_not_looked_for() {
        let (mut thread, mut looks) = (Thread::new(), Looks::default());
        for _ in 0..1000 {
            thread.message(&mut looks, 1, 201 * MICROSECOND);
        }
        assert_eq!(thread.looked, Duration::ZERO);
    }

    #[test]
    fn a_thread_with_several_busy_descriptors_does_not_look() {
        let mut thread = Thread::new();
        let mut many = [const { () }; 3].map(|()| Looks::default());
        for number in 0..999 {
            let who = number % many.len();
            thread.message(&mut many[who], who + 1, 8 * MICROSECOND);
        }
        assert_eq!(thread.looked, Duration::ZERO);
        // They fall silent, and one goes on.
        let met = (0..100)
            .filter(|_| thread.message(&mut many[0], 1, 8 * MICROSECOND))
            .count();
        assert_eq!(met, 100 - ALONE as usize);
    }

    #[test]
    fn it_goes_on_after_a_while_in_vain() {
        let (mut thread, mut looks) = (Thread::new(), Looks::default());
        for _ in 0..1000 {
            thread.message(&mut looks, 1, 150 * MICROSECOND);
        }
        assert!(thread.loss() > SAVINGS - LOOK);
        // A little is spared up again in ten looks' time, and the first success pays for the next.
        thread.message(&mut looks, 1, LOOK * PARTS);
        let met = (0..1000)
            .filter(|_| thread.message(&mut looks, 1, 8 * MICROSECOND))
            .count();
        assert!(met >= 990, "{met}");
    }

    #[test]
    fn a_program_decides_otherwise() {
        let mut thread = Thread::new();
        let mut never = Looks::new(Policy::UpTo(Duration::ZERO));
        assert!((0..100).all(|_| !thread.message(&mut never, 1, MICROSECOND)));
        let mut always = Looks::new(Policy::UpTo(50 * MICROSECOND));
        assert!((0..100).all(|_| thread.message(&mut always, 2, 40 * MICROSECOND)));
        assert!((0..100_000).all(|_| !thread.message(&mut always, 2, 60 * MICROSECOND)));
        assert_eq!(
            thread.looked,
            50 * MICROSECOND * 100_000 + 40 * MICROSECOND * 100
        );
        assert_eq!(thread.account.credit, SAVINGS); // what it wants is not charged
    }
}
