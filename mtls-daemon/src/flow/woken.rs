//! Wakers by number: which of many was woken, without a task for each.

use std::future::poll_fn;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Wake, Waker};

/// Numbers that were woken and not looked at yet.
#[derive(Default)]
pub(super) struct Woken(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    woken: Vec<usize>,
    /// Who looks at them.
    looker: Option<Waker>,
}

impl Woken {
    /// Puts `nth` among the woken.
    pub(super) fn waker(&self, nth: usize) -> Waker {
        let queue = Arc::clone(&self.0);
        Waker::from(Arc::new(One { nth, queue }))
    }

    /// Those that were woken since the last call, at least one. One may wait.
    pub(super) async fn next(&self) -> Vec<usize> {
        poll_fn(|cx| {
            let mut queue = lock(&self.0);
            if queue.woken.is_empty() {
                queue.looker = Some(cx.waker().clone());
                Poll::Pending
            } else {
                Poll::Ready(mem::take(&mut queue.woken))
            }
        })
        .await
    }
}

struct One {
    nth: usize,
    queue: Arc<Mutex<Queue>>,
}

impl Wake for One {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut queue = lock(&self.queue);
        queue.woken.push(self.nth);
        let looker = queue.looker.take();
        drop(queue);
        if let Some(looker) = looker {
            looker.wake();
        }
    }
}

/// Consistent even if its holder panicked: each change is one step.
fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Context;

    use super::*;

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Wake for Counting {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_waits_is_woken_once_and_told_all() {
        let woken = Woken::default();
        let counting = Arc::<Counting>::default();
        let waker = Waker::from(Arc::clone(&counting));
        let mut cx = Context::from_waker(&waker);
        let (one, two) = (woken.waker(1), woken.waker(2));

        let mut next = pin!(woken.next());
        assert!(next.as_mut().poll(&mut cx).is_pending());
        two.wake_by_ref();
        one.wake();
        assert_eq!(counting.0.load(Ordering::Relaxed), 1);
        assert_eq!(next.poll(&mut cx), Poll::Ready(vec![2, 1]));

        let mut next = pin!(woken.next());
        assert!(next.as_mut().poll(&mut cx).is_pending());
        two.wake();
        assert_eq!(next.poll(&mut cx), Poll::Ready(vec![2]));
    }

    #[test]
    fn what_was_woken_while_nobody_waited_is_told() {
        let woken = Woken::default();
        woken.waker(7).wake();
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(pin!(woken.next()).poll(&mut cx), Poll::Ready(vec![7]));
    }
}
