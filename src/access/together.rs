//! Questions that are put together: only so many are asked at a time, and whoever has the turn takes along what others wait with.
//!
//! Nobody works for others alone: the turn is always with one who has a question of their own, and who is asked for nothing more once it
//! is answered. Where that one goes away in the middle of it, the turn goes to who has waited longest, and those who had been taken along
//! ask again.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

pub struct Together<Q, A> {
    state: Arc<Mutex<State<Q, A>>>,
    /// How many questions are put together at most.
    most: usize,
}

struct State<Q, A> {
    /// How many more may ask at this moment. Where any may, nobody waits.
    turns: usize,
    waiting: VecDeque<Waiting<Q, A>>,
}

struct Waiting<Q, A> {
    question: Arc<Q>,
    told: Hears<Q, A>,
}

/// Where somebody waits to be told.
type Hears<Q, A> = oneshot::Sender<Told<Q, A>>;

/// What somebody is told who waits.
enum Told<Q, A> {
    /// If there was one.
    Answer(Option<A>),
    /// To ask.
    Turn(Turn<Q, A>),
}

/// What becomes of who wants to ask.
enum Entered<Q, A> {
    Turn(Turn<Q, A>),
    Waiting(oneshot::Receiver<Told<Q, A>>),
}

/// The right to ask. It is passed on when it is dropped, be it by one who has never heard that they have it.
struct Turn<Q, A>(Option<Arc<Mutex<State<Q, A>>>>);

impl<Q, A> Together<Q, A> {
    /// `turns`: how often anything is asked at a time; `most`: how many questions are put together at most.
    pub fn new(turns: usize, most: usize) -> Self {
        let state = State {
            turns,
            waiting: VecDeque::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            most,
        }
    }

    /// The answer to one question. `put` puts it, and others, and answers in the same order. `None`: it had no answer to this one.
    ///
    /// # Errors
    /// That of `put`, to the one whose turn it was. The others ask again.
    pub async fn ask<E>(
        &self,
        question: Arc<Q>,
        put: impl AsyncFnOnce(&[Arc<Q>]) -> Result<Vec<A>, E>,
    ) -> Result<Option<A>, E> {
        let turn = loop {
            match self.enter(&question) {
                Entered::Turn(turn) => break turn,
                Entered::Waiting(told) => match told.await {
                    Ok(Told::Answer(answer)) => return Ok(answer),
                    Ok(Told::Turn(turn)) => break turn,
                    // Whoever took it along has gone away.
                    Err(_) => {}
                },
            }
        };
        let (questions, others) = self.with_others(question);
        let mut answers = put(&questions).await?.into_iter();
        drop(turn);
        let answer = answers.next();
        for told in others {
            // Who has gone away needs none.
            let _ = told.send(Told::Answer(answers.next()));
        }
        Ok(answer)
    }

    fn enter(&self, question: &Arc<Q>) -> Entered<Q, A> {
        let mut state = lock(&self.state);
        if let Some(left) = state.turns.checked_sub(1) {
            state.turns = left;
            return Entered::Turn(Turn(Some(self.state.clone())));
        }
        let (told, hears) = oneshot::channel();
        let question = question.clone();
        state.waiting.push_back(Waiting { question, told });
        Entered::Waiting(hears)
    }

    /// A question, and those that are taken along with it.
    fn with_others(&self, question: Arc<Q>) -> (Vec<Arc<Q>>, Vec<Hears<Q, A>>) {
        let mut state = lock(&self.state);
        let (mut questions, mut others) = (vec![question], Vec::new());
        while questions.len() < self.most {
            let Some(Waiting { question, told }) = state.waiting.pop_front() else {
                break;
            };
            if !told.is_closed() {
                questions.push(question);
                others.push(told);
            }
        }
        (questions, others)
    }
}

impl<Q, A> Drop for Turn<Q, A> {
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else {
            return;
        };
        let mut state = lock(&shared);
        while let Some(Waiting { told, .. }) = state.waiting.pop_front() {
            match told.send(Told::Turn(Turn(Some(shared.clone())))) {
                Ok(()) => return,
                // Who has gone away needs none.
                Err(Told::Turn(mut turn)) => turn.0 = None,
                Err(Told::Answer(_)) => {}
            }
        }
        state.turns += 1;
    }
}

/// Nothing that is done under it can leave it half done.
fn lock<Q, A>(state: &Mutex<State<Q, A>>) -> MutexGuard<'_, State<Q, A>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<Q, A> fmt::Debug for Together<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        write!(
            f,
            "{} turns left, {} waiting",
            state.turns,
            state.waiting.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;
    use tokio::sync::Semaphore;

    use super::*;

    type Asking<'a> = Pin<Box<dyn Future<Output = Result<Option<u32>, String>> + 'a>>;

    /// Questions are numbers, and are answered by themselves, once [`Self::answer`] lets them.
    struct Table {
        together: Together<u32, u32>,
        put: RefCell<Vec<Vec<u32>>>,
        under_way: Cell<usize>,
        answered: Semaphore,
        fails: Cell<bool>,
    }

    /// Counts who is putting questions, however that ends.
    struct Putting<'a>(&'a Cell<usize>);

    impl<'a> Putting<'a> {
        fn new(under_way: &'a Cell<usize>) -> Self {
            under_way.set(under_way.get() + 1);
            Self(under_way)
        }
    }

    impl Drop for Putting<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    const TURNS: usize = 2;
    const MOST: usize = 3;

    impl Table {
        fn new() -> Self {
            Self {
                together: Together::new(TURNS, MOST),
                put: RefCell::default(),
                under_way: Cell::new(0),
                answered: Semaphore::new(0),
                fails: Cell::new(false),
            }
        }

        fn ask(&self, question: u32) -> Asking<'_> {
            Box::pin(self.together.ask(Arc::new(question), async |questions| {
                let _putting = Putting::new(&self.under_way);
                let questions: Vec<u32> = questions.iter().map(|question| **question).collect();
                self.put.borrow_mut().push(questions.clone());
                if let Ok(answered) = self.answered.acquire().await {
                    answered.forget();
                }
                match self.fails.get() {
                    true => Err("lost".to_owned()),
                    false => Ok(questions),
                }
            }))
        }

        fn put(&self) -> Vec<Vec<u32>> {
            self.put.take()
        }
    }

    fn poll(asking: &mut Asking<'_>) -> Poll<Result<Option<u32>, String>> {
        pin!(asking).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn who_comes_first_asks_alone_and_takes_along_next_who_waits_meanwhile() {
        let table = Table::new();
        let mut asking: Vec<Asking<'_>> = (0..8).map(|n| table.ask(n)).collect();
        for asking in &mut asking {
            assert!(poll(asking).is_pending());
        }
        assert_eq!(table.put(), [[0], [1]]);
        table.answered.add_permits(2);
        assert_eq!(poll(&mut asking[0]), Poll::Ready(Ok(Some(0))));
        assert_eq!(poll(&mut asking[1]), Poll::Ready(Ok(Some(1))));
        for asking in &mut asking[2..] {
            assert!(poll(asking).is_pending());
        }
        assert_eq!(table.put(), [vec![2, 4, 5], vec![3, 6, 7]]);
        table.answered.add_permits(1);
        assert_eq!(poll(&mut asking[2]), Poll::Ready(Ok(Some(2))));
        for taken in [4, 5] {
            assert_eq!(
                poll(&mut asking[taken]),
                Poll::Ready(Ok(Some(taken as u32)))
            );
        }
        assert!(poll(&mut asking[6]).is_pending());
    }

    #[test]
    fn where_a_question_cannot_be_put_those_who_were_taken_along_ask_again() {
        let table = Table::new();
        let mut asking: Vec<Asking<'_>> = (0..4).map(|n| table.ask(n)).collect();
        for asking in &mut asking {
            assert!(poll(asking).is_pending());
        }
        table.answered.add_permits(1);
        assert_eq!(poll(&mut asking[0]), Poll::Ready(Ok(Some(0))));
        assert!(poll(&mut asking[2]).is_pending());
        assert_eq!(table.put()[2..], [[2, 3]]);
        table.fails.set(true);
        table.answered.add_permits(2);
        for failed in [1, 2] {
            assert_eq!(
                poll(&mut asking[failed]),
                Poll::Ready(Err("lost".to_owned()))
            );
        }
        table.fails.set(false);
        assert!(poll(&mut asking[3]).is_pending());
        assert_eq!(table.put(), [[3]]);
    }

    proptest! {
        /// Whoever goes away, and whenever: the others are answered, each with their own, and never do more ask than may.
        #[test]
        fn everybody_who_stays_is_answered(steps in prop::collection::vec((0..8_u8, 0..12_usize), 0..200)) {
            let table = Table::new();
            let mut asking: Vec<Option<Asking<'_>>> = (0..12).map(|_| None).collect();
            let look = |asking: &mut Option<Asking<'_>>, place: usize| {
                let polled = asking.as_mut().map(poll);
                if let Some(Poll::Ready(answer)) = polled {
                    *asking = None;
                    assert!(answer == Ok(Some(place as u32)) || answer.is_err(), "{place}: {answer:?}");
                }
                assert!(table.under_way.get() <= TURNS);
            };
            for (step, place) in steps {
                match step {
                    0..4 => {
                        asking[place].get_or_insert_with(|| table.ask(place as u32));
                        look(&mut asking[place], place);
                    }
                    4 => asking[place] = None,
                    5..7 => look(&mut asking[place], place),
                    _ => {
                        table.fails.set(place == 0);
                        table.answered.add_permits(1);
                    }
                }
            }
            table.fails.set(false);
            table.answered.add_permits(1000);
            for _ in 0..100 {
                for (place, asking) in asking.iter_mut().enumerate() {
                    look(asking, place);
                }
            }
            prop_assert!(asking.iter().all(Option::is_none));
            prop_assert_eq!(lock(&table.together.state).turns, TURNS);
        }
    }
}
