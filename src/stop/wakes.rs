//! Waking those who rest, by their numbers: thousands that wait need no task each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Who is to be woken, collected until somebody takes the numbers.
#[derive(Debug, Default)]
pub struct Wakes {
    due: Mutex<Vec<u32>>,
    bell: Notify,
}

impl Wakes {
    /// Wakes `number`.
    pub fn wake(&self, number: u32) {
        self.due().push(number);
        self.bell.notify_one();
    }

    /// The numbers that were woken since the last call, at least one, some perhaps more than once.
    /// Cancel-safe.
    pub async fn next(&self) -> Vec<u32> {
        loop {
            let due = std::mem::take(&mut *self.due());
            if !due.is_empty() {
                return due;
            }
            self.bell.notified().await;
        }
    }

    fn due(&self) -> MutexGuard<'_, Vec<u32>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who rests and can be woken.
#[derive(Debug, Clone)]
pub struct Sleeper {
    wakes: Arc<Wakes>,
    number: u32,
}

impl Sleeper {
    /// The one with this number among those whom `wakes` wakes.
    pub fn new(wakes: Arc<Wakes>, number: u32) -> Self {
        Self { wakes, number }
    }

    /// Wakes it.
    pub fn wake(&self) {
        self.wakes.wake(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_who_was_woken_is_forgotten() {
        let wakes = Arc::new(Wakes::default());
        let sleepers: Vec<_> = (0..3)
            .map(|number| Sleeper::new(Arc::clone(&wakes), number))
            .collect();
        sleepers[2].wake();
        sleepers[0].wake();
        assert_eq!(wakes.next().await, [2, 0]);
        // What was taken is not told again, and a wake during the wait ends it.
        let waiting = tokio::spawn({
            let wakes = Arc::clone(&wakes);
            async move { wakes.next().await }
        });
        tokio::task::yield_now().await;
        sleepers[1].wake();
        assert_eq!(waiting.await.unwrap(), [1]);
    }
}
