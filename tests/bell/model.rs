//! The bell, as a model: editors, workers and the server's lock take their steps in any order, and whatever may go wrong does. Where
//! everybody has come to rest, no change may lie there unless a worker is going to look anyway, within a second at most.
//!
//! What it takes of Postgres is tried on a real one, next door. Small worlds are walked through completely, larger ones at random. And
//! it finds what is wrong when a rule is broken, one at a time.

use std::collections::HashMap;

use proptest::prelude::*;

/// The rules that can be broken.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// Once it has the bell, a worker looks once more.
    looks_when_it_has_the_bell: bool,
    /// It does not rely on being rung for before it has the bell, or somebody else was seen to have it.
    waits_for_the_bell: bool,
    /// An edit can be seen before its lock is let go.
    is_seen_before_the_lock_goes: bool,
    /// While it waits, it does not take it that another has the bell.
    sees_that_another_has_it: bool,
    /// It does not rely on being rung for any more when it has stopped waiting.
    notices_the_end_of_waiting: bool,
    /// Nor when it hears nothing.
    notices_that_it_is_deaf: bool,
    /// Nor when the session has ended that had the bell.
    notices_the_end_of_its_session: bool,
    /// What another worker has in hand is looked at again after a second.
    looks_after_what_another_has: bool,
    /// Who is awake looks.
    looks_when_awake: bool,
}

const RULES: Rules = Rules {
    looks_when_it_has_the_bell: true,
    waits_for_the_bell: true,
    is_seen_before_the_lock_goes: true,
    sees_that_another_has_it: true,
    notices_the_end_of_waiting: true,
    notices_that_it_is_deaf: true,
    notices_the_end_of_its_session: true,
    looks_after_what_another_has: true,
    looks_when_awake: true,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Editor {
    Idle,
    /// In a transaction: how many changes are recorded, whether the lock is held, whether it will ring.
    Open {
        recorded: u8,
        silent: bool,
        rings: bool,
    },
    /// Committed, but for the lock and the ring.
    Ending {
        recorded: u8,
        silent: bool,
        rings: bool,
    },
}

/// A worker's change loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Loop {
    Rests,
    /// Is about to claim.
    Looks,
    /// Has so many changes in hand.
    Works(u8),
}

/// A worker's session for the bell, as the server has it, and what the worker has heard of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Session {
    /// The bell is not wanted, or not asked for yet.
    Idle,
    Waits,
    /// It has the bell, and does not know it yet.
    Granted,
    Has,
    /// It has waited for too long, and does not know that it waits no longer.
    Expired,
    /// It has ended, and the worker does not know it yet.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Ears {
    Listen,
    /// The connection has ended, and the worker does not know it yet.
    Lost,
    /// It does, and looks every second.
    Deaf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Worker {
    is_alive: bool,
    /// Stopped in the middle, as by SIGSTOP.
    is_stopped: bool,
    ears: Ears,
    /// It rang.
    rang: bool,
    is_awake: bool,
    /// Relies on being rung for.
    is_armed: bool,
    /// Looks again in a second.
    again: bool,
    at: Loop,
    session: Session,
}

/// With so many editors and workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct World<const E: usize, const W: usize> {
    editors: [Editor; E],
    workers: [Worker; W],
    /// How many transactions editors have yet to make, and how many faults there are yet to come.
    transactions: u8,
    faults: u8,
    /// Changes of wakefulness to come.
    moods: u8,
    /// Changes in the outbox that are committed, and in nobody's hands.
    waiting: u8,
    /// Who has the lock alone, and who waits for that.
    owner: Option<usize>,
    queue: [Option<usize>; W],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Begin(usize),
    Edit(usize),
    Rollback(usize),
    Commit(usize),
    LetGo(usize),
    Ring(usize),
    StartsToLook(usize),
    Claims(usize),
    Settles(usize),
    Polls(usize),
    Asks(usize),
    LearnsThatItHasTheBell(usize),
    SeesThatAnotherHasTheBell(usize),
    LearnsThatItsTimeIsUp(usize),
    LearnsThatItsSessionIsLost(usize),
    LearnsThatItIsDeaf(usize),
    ListensAgain(usize),
    Wakes(usize),
    FallsAsleep(usize),
    WaitsForTooLong(usize),
    SessionEnds(usize),
    ListenerEnds(usize),
    Dies(usize),
    Starts(usize),
    Stops(usize),
    GoesOn(usize),
}

impl<const E: usize, const W: usize> World<E, W> {
    fn new(transactions: u8, faults: u8, moods: u8) -> Self {
        Self {
            editors: [Editor::Idle; E],
            workers: [Worker::new(); W],
            transactions,
            faults,
            moods,
            waiting: 0,
            owner: None,
            queue: [None; W],
        }
    }

    fn is_shared(&self) -> bool {
        self.editors.iter().any(|editor| {
            matches!(
                editor,
                Editor::Open { silent: true, .. } | Editor::Ending { silent: true, .. }
            )
        })
    }

    /// The server gives the lock to whoever is first, once nobody shares it.
    fn grant(&mut self) {
        if self.owner.is_none()
            && !self.is_shared()
            && let Some(worker) = self.queue[0]
        {
            self.queue[0] = None;
            self.queue.rotate_left(1);
            self.owner = Some(worker);
            self.workers[worker].session = Session::Granted;
        }
    }

    /// A worker's session has nothing to do with the lock any more.
    fn forget(&mut self, worker: usize) {
        if let Some(place) = self.queue.iter().position(|w| *w == Some(worker)) {
            self.queue[place] = None;
            self.queue[place..].rotate_left(1);
        }
        if self.owner == Some(worker) {
            self.owner = None;
        }
    }

    fn in_hand_of_others(&self, worker: usize) -> bool {
        let others = self
            .workers
            .iter()
            .enumerate()
            .filter(|(n, _)| *n != worker);
        others
            .into_iter()
            .any(|(_, other)| matches!(other.at, Loop::Works(_)))
    }

    /// All that can happen. Time is not in it: what may happen by and by may happen now.
    fn steps(&self, rules: &Rules) -> Vec<Step> {
        let mut steps = Vec::new();
        for (n, editor) in self.editors.iter().enumerate() {
            match *editor {
                Editor::Idle if self.transactions > 0 => steps.push(Step::Begin(n)),
                Editor::Idle => {}
                Editor::Open { recorded, .. } => {
                    if recorded < 2 {
                        steps.push(Step::Edit(n));
                    }
                    steps.extend([Step::Rollback(n), Step::Commit(n)]);
                }
                Editor::Ending { silent: true, .. } => steps.push(Step::LetGo(n)),
                Editor::Ending { .. } => steps.push(Step::Ring(n)),
            }
        }
        for (n, worker) in self.workers.iter().enumerate() {
            if self.faults > 0 {
                if !worker.is_alive {
                    steps.push(Step::Starts(n));
                    continue;
                }
                steps.push(Step::Dies(n));
                steps.push(match worker.is_stopped {
                    true => Step::GoesOn(n),
                    false => Step::Stops(n),
                });
                if worker.ears == Ears::Listen {
                    steps.push(Step::ListenerEnds(n));
                }
                if worker.session != Session::Lost {
                    steps.push(Step::SessionEnds(n));
                }
                if worker.session == Session::Waits {
                    steps.push(Step::WaitsForTooLong(n));
                }
            }
            if worker.is_alive && !worker.is_stopped {
                self.steps_of(n, worker, rules, &mut steps);
            }
        }
        steps
    }

    fn steps_of(&self, n: usize, worker: &Worker, rules: &Rules, steps: &mut Vec<Step>) {
        match worker.at {
            Loop::Rests if worker.rang && !worker.is_awake => steps.push(Step::StartsToLook(n)),
            Loop::Rests if worker.looks_soon(rules) => steps.push(Step::Polls(n)),
            Loop::Rests => {}
            Loop::Looks => steps.push(Step::Claims(n)),
            Loop::Works(_) => steps.push(Step::Settles(n)),
        }
        match worker.session {
            _ if worker.ears != Ears::Listen => {}
            Session::Idle if !worker.is_awake => steps.push(Step::Asks(n)),
            Session::Waits if !worker.is_armed => {
                let another = self.owner.is_some_and(|owner| owner != n);
                let was = !rules.sees_that_another_has_it;
                if another || was {
                    steps.push(Step::SeesThatAnotherHasTheBell(n));
                }
            }
            Session::Granted => steps.push(Step::LearnsThatItHasTheBell(n)),
            Session::Expired => steps.push(Step::LearnsThatItsTimeIsUp(n)),
            Session::Lost => steps.push(Step::LearnsThatItsSessionIsLost(n)),
            Session::Idle | Session::Waits | Session::Has => {}
        }
        match worker.ears {
            Ears::Listen => {}
            Ears::Lost => steps.push(Step::LearnsThatItIsDeaf(n)),
            Ears::Deaf => steps.push(Step::ListensAgain(n)),
        }
        if self.moods > 0 {
            steps.push(match worker.is_awake {
                true => Step::FallsAsleep(n),
                false => Step::Wakes(n),
            });
        }
    }

    fn take(&mut self, step: Step, rules: &Rules) {
        match step {
            Step::Begin(n) => {
                self.transactions -= 1;
                self.editors[n] = Editor::Open {
                    recorded: 0,
                    silent: false,
                    rings: false,
                };
            }
            Step::Edit(n) => {
                // Whoever has it has it; and nobody gets past somebody who waits.
                let is_free = self.owner.is_none() && self.queue[0].is_none();
                if let Editor::Open {
                    recorded,
                    silent,
                    rings,
                } = &mut self.editors[n]
                {
                    *recorded += 1;
                    *silent |= is_free;
                    *rings |= !*silent;
                }
            }
            Step::Rollback(n) => {
                self.editors[n] = Editor::Idle;
                self.grant();
            }
            Step::Commit(n) => {
                if let Editor::Open {
                    recorded,
                    silent,
                    rings,
                } = self.editors[n]
                {
                    if rules.is_seen_before_the_lock_goes {
                        self.waiting += recorded;
                    }
                    self.editors[n] = Editor::Ending {
                        recorded,
                        silent,
                        rings,
                    };
                }
            }
            Step::LetGo(n) => {
                if let Editor::Ending { silent, .. } = &mut self.editors[n] {
                    *silent = false;
                }
                self.grant();
            }
            Step::Ring(n) => {
                if let Editor::Ending {
                    recorded, rings, ..
                } = self.editors[n]
                {
                    if !rules.is_seen_before_the_lock_goes {
                        self.waiting += recorded;
                    }
                    for worker in &mut self.workers {
                        worker.rang |= rings && worker.is_alive && worker.ears == Ears::Listen;
                    }
                }
                self.editors[n] = Editor::Idle;
            }
            step => self.take_of_worker(step, rules),
        }
    }

    fn take_of_worker(&mut self, step: Step, rules: &Rules) {
        match step {
            Step::StartsToLook(n) => {
                self.workers[n].rang = false;
                self.workers[n].at = Loop::Looks;
            }
            Step::Polls(n) => self.workers[n].at = Loop::Looks,
            Step::Claims(n) => {
                let claimed = std::mem::take(&mut self.waiting);
                let again = rules.looks_after_what_another_has && self.in_hand_of_others(n);
                let worker = &mut self.workers[n];
                worker.at = match claimed {
                    0 => Loop::Rests,
                    claimed => Loop::Works(claimed),
                };
                worker.again = again;
            }
            Step::Settles(n) => self.workers[n].at = Loop::Looks,
            Step::Asks(n) => {
                self.workers[n].session = Session::Waits;
                if let Some(place) = self.queue.iter_mut().find(|place| place.is_none()) {
                    *place = Some(n);
                }
                if !rules.waits_for_the_bell {
                    self.workers[n].arm(rules);
                }
                self.grant();
            }
            Step::LearnsThatItHasTheBell(n) => {
                let worker = &mut self.workers[n];
                worker.session = Session::Has;
                // It was awake before it could know.
                if worker.is_awake {
                    worker.session = Session::Idle;
                    self.forget(n);
                    self.grant();
                } else if rules.waits_for_the_bell {
                    worker.arm(rules);
                }
            }
            Step::SeesThatAnotherHasTheBell(n) => self.workers[n].arm(rules),
            Step::LearnsThatItsTimeIsUp(n) => {
                let worker = &mut self.workers[n];
                worker.session = Session::Idle;
                worker.is_armed &= !rules.notices_the_end_of_waiting;
            }
            Step::LearnsThatItsSessionIsLost(n) => {
                let worker = &mut self.workers[n];
                worker.session = Session::Idle;
                worker.is_armed = false;
            }
            Step::LearnsThatItIsDeaf(n) => {
                let worker = &mut self.workers[n];
                worker.ears = Ears::Deaf;
                worker.is_armed &= !rules.notices_that_it_is_deaf;
                worker.session = Session::Idle;
                self.forget(n);
                self.grant();
            }
            Step::ListensAgain(n) => {
                self.workers[n].ears = Ears::Listen;
                self.workers[n].rang |= rules.notices_that_it_is_deaf;
            }
            Step::Wakes(n) => {
                self.moods -= 1;
                let worker = &mut self.workers[n];
                worker.is_awake = true;
                worker.is_armed = false;
                // What was granted, and is not known yet, is given up when it is.
                if matches!(worker.session, Session::Waits | Session::Has) {
                    worker.session = Session::Idle;
                    self.forget(n);
                    self.grant();
                }
            }
            Step::FallsAsleep(n) => {
                self.moods -= 1;
                self.workers[n].is_awake = false;
            }
            step => self.take_fault(step, rules),
        }
    }

    fn take_fault(&mut self, step: Step, rules: &Rules) {
        self.faults -= 1;
        match step {
            Step::WaitsForTooLong(n) => {
                self.forget(n);
                self.workers[n].session = Session::Expired;
                self.grant();
            }
            Step::SessionEnds(n) => {
                self.forget(n);
                self.workers[n].session = match rules.notices_the_end_of_its_session {
                    true => Session::Lost,
                    false => Session::Has,
                };
                self.grant();
            }
            Step::ListenerEnds(n) => {
                self.workers[n].ears = match rules.notices_that_it_is_deaf {
                    true => Ears::Lost,
                    false => Ears::Deaf,
                };
            }
            Step::Dies(n) => {
                if let Loop::Works(claimed) = self.workers[n].at {
                    self.waiting += claimed;
                }
                self.workers[n] = Worker {
                    is_alive: false,
                    ..Worker::new()
                };
                self.forget(n);
                self.grant();
            }
            Step::Starts(n) => {
                self.workers[n] = Worker {
                    rang: true,
                    ..Worker::new()
                };
            }
            Step::Stops(n) => self.workers[n].is_stopped = true,
            Step::GoesOn(n) => self.workers[n].is_stopped = false,
            _ => unreachable!("no fault: {step:?}"),
        }
    }

    /// Nobody is going to do anything but by and by.
    fn is_at_rest(&self) -> bool {
        let edits = |editor: &Editor| matches!(editor, Editor::Ending { .. });
        !self.editors.iter().any(edits) && self.workers.iter().all(Worker::is_at_rest)
    }

    /// A change lies there, and nobody is going to look within a second.
    fn is_wrong(&self, rules: &Rules) -> bool {
        let mut running = self
            .workers
            .iter()
            .filter(|worker| worker.runs())
            .peekable();
        self.waiting > 0
            && self.is_at_rest()
            && running.peek().is_some()
            && !running.any(|worker| worker.looks_soon(rules))
    }
}

impl Worker {
    fn new() -> Self {
        Self {
            is_alive: true,
            is_stopped: false,
            ears: Ears::Listen,
            rang: false,
            is_awake: false,
            is_armed: false,
            again: false,
            at: Loop::Rests,
            session: Session::Idle,
        }
    }

    fn arm(&mut self, rules: &Rules) {
        self.is_armed = true;
        self.rang |= rules.looks_when_it_has_the_bell;
    }

    fn runs(&self) -> bool {
        self.is_alive && !self.is_stopped
    }

    /// Within a second at most.
    fn looks_soon(&self, rules: &Rules) -> bool {
        (self.is_awake && rules.looks_when_awake)
            || (!self.is_awake && !self.is_armed)
            || self.again
    }

    fn is_at_rest(&self) -> bool {
        let is_asking = self.session == Session::Idle && !self.is_awake;
        let knows = matches!(self.session, Session::Idle | Session::Waits | Session::Has);
        let is_busy = self.at != Loop::Rests
            || (self.rang && !self.is_awake)
            || self.ears == Ears::Lost
            || (self.ears == Ears::Listen && (is_asking || !knows));
        !(self.runs() && is_busy)
    }
}

/// Walks through all that can happen. Returns how many worlds there are, or the shortest way to one that is wrong.
fn walk_through<const E: usize, const W: usize>(
    start: World<E, W>,
    rules: &Rules,
) -> Result<usize, Vec<Step>> {
    let mut known = HashMap::from([(start, 0_usize)]);
    let mut worlds = vec![(start, None::<(usize, Step)>)];
    let mut next = 0;
    while let Some((world, _)) = worlds.get(next).copied() {
        if world.is_wrong(rules) {
            let mut way = Vec::new();
            while let Some((before, step)) = worlds[next].1 {
                way.push(step);
                next = before;
            }
            way.reverse();
            return Err(way);
        }
        for step in world.steps(rules) {
            let mut then = world;
            then.take(step, rules);
            // One editor is as good as another.
            then.editors.sort_unstable();
            known.entry(then).or_insert_with(|| {
                worlds.push((then, Some((next, step))));
                worlds.len() - 1
            });
        }
        next += 1;
    }
    Ok(worlds.len())
}

fn is_right<const E: usize, const W: usize>(start: World<E, W>) {
    let worlds = walk_through(start, &RULES).unwrap_or_else(|way| panic!("{start:?}\n{way:?}"));
    println!("{worlds} worlds from {start:?}");
    assert!(worlds > 1_000);
}

#[test]
fn in_no_small_world_does_a_change_lie_there_unseen() {
    is_right(World::<2, 1>::new(3, 1, 1));
    is_right(World::<1, 2>::new(1, 1, 1));
    is_right(World::<2, 2>::new(2, 0, 0));
}

#[test]
#[ignore = "takes minutes: make soak"]
fn nor_in_one_that_is_not_so_small() {
    is_right(World::<3, 1>::new(4, 3, 3));
    is_right(World::<1, 2>::new(2, 2, 2));
    is_right(World::<2, 2>::new(2, 1, 1));
}

/// `so_far`: what has happened already.
fn is_found_out<const E: usize, const W: usize>(
    what: &str,
    mut start: World<E, W>,
    so_far: &[Step],
    broken: impl Fn(&mut Rules),
) {
    let mut rules = RULES;
    broken(&mut rules);
    for step in so_far {
        assert!(start.steps(&rules).contains(step), "{step:?} in {start:?}");
        start.take(*step, &rules);
    }
    match walk_through(start, &rules) {
        Ok(_) => panic!("{what}: it makes no difference"),
        Err(way) => println!("{what}: {so_far:?}, {way:?}"),
    }
}

#[test]
fn each_broken_rule_is_found_out() {
    let one = World::<1, 1>::new(1, 1, 1);
    is_found_out("does not look when it has the bell", one, &[], |rules| {
        rules.looks_when_it_has_the_bell = false;
    });
    is_found_out("does not wait for the bell", one, &[], |rules| {
        rules.waits_for_the_bell = false;
    });
    is_found_out("the lock goes before the edit is seen", one, &[], |rules| {
        rules.is_seen_before_the_lock_goes = false;
    });
    is_found_out("does not look when awake", one, &[], |rules| {
        rules.looks_when_awake = false;
    });
    is_found_out("is deaf and does not notice", one, &[], |rules| {
        rules.notices_that_it_is_deaf = false;
    });
    is_found_out(
        "its session ends and it does not notice",
        one,
        &[],
        |rules| {
            rules.notices_the_end_of_its_session = false;
        },
    );
    let editors = World::<2, 1>::new(2, 0, 0);
    is_found_out(
        "takes it that another has the bell",
        editors,
        &[],
        |rules| {
            rules.sees_that_another_has_it = false;
        },
    );
    let workers = World::<1, 2>::new(1, 1, 0);
    is_found_out("leaves it to another, who dies", workers, &[], |rules| {
        rules.looks_after_what_another_has = false;
    });
    let asleep = [
        Step::Asks(0),
        Step::LearnsThatItHasTheBell(0),
        Step::StartsToLook(0),
        Step::Claims(0),
        Step::Asks(1),
        Step::SeesThatAnotherHasTheBell(1),
        Step::StartsToLook(1),
        Step::Claims(1),
    ];
    let both = World::<2, 2>::new(2, 2, 0);
    is_found_out(
        "waits no longer and does not notice",
        both,
        &asleep,
        |rules| {
            rules.notices_the_end_of_waiting = false;
        },
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nor_in_a_larger_one(choices in prop::collection::vec(any::<u16>(), 300)) {
        let mut world = World::<4, 3>::new(40, 12, 12);
        let mut way = Vec::new();
        for choice in choices {
            let steps = world.steps(&RULES);
            let Some(step) = steps.get(usize::from(choice) % steps.len().max(1)) else {
                break;
            };
            world.take(*step, &RULES);
            way.push(*step);
            prop_assert!(!world.is_wrong(&RULES), "{way:?}\n{world:?}");
        }
    }
}
