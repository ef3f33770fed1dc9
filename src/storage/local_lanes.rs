//! Runs blocking file system calls on threads, so that a hung directory cannot take them all.
//!
//! A call into a hung mount (an NFS server that is gone, a dead FUSE daemon) cannot be cancelled: its
//! thread sits in the kernel until the mount answers, whatever the caller's deadline is. tokio has one
//! pool of such threads for the whole process (512 by default), so without a bound one hung directory
//! that is polled often enough takes them all, and then every other directory hangs with it.
//!
//! So a call takes a place in two lanes before it gets a thread, and gives it back when its thread
//! comes back, not when its caller gives up:
//!
//! - its directory's lane, of [`PER_DIRECTORY`] places;
//! - its mount's lane, of [`PER_MOUNT`] places: many directories of one hung mount count together. The
//!   mount is found in the text of `/proc/self/mountinfo`, which touches no mount. A path that leads
//!   onto a hung mount through a symbolic link counts for the mount that the link lies on, of which its
//!   directory takes at most its own places.
//!
//! So eight mounts must hang at a time before tokio's threads are used up.
//!
//! Who finds no place waits as a future, without a thread, until its deadline (see
//! [`WithTimeout`](super::timeout::WithTimeout)). The lanes of other directories stay free.
//!
//! A call whose caller gave up before it got its thread is never made; one that has not come to its
//! publishing step yet is told by [`Abandoned`] and leaves that step out. So a change that was hung for
//! an hour does not land late if that can be helped; it can not be ruled out.
//!
//! A stuck thread also keeps a tokio runtime from ending: whoever owns the runtime ends it with
//! `shutdown_background` or `shutdown_timeout`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::storage::StoragePath;

/// Calls at a time in one directory.
pub(super) const PER_DIRECTORY: usize = 16;
/// Calls at a time in one mount.
pub(super) const PER_MOUNT: usize = 64;
/// How long the list of mounts is taken for true; an old one only groups worse.
const MOUNTS_TTL: Duration = Duration::from_secs(10);

/// The lanes of one storage.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    open: Arc<Mutex<HashMap<LaneKey, Lane>>>,
    mounts: Mutex<Mounts>,
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum LostCall {
    /// The thread panicked, or the runtime is ending.
    #[error("the thread of the call ended without a result")]
    Thread(#[from] tokio::task::JoinError),
    /// The caller gave up before the call was made, so this reaches no one.
    #[error("the call was given up before it was made")]
    NeverMade,
}

/// Tells a running call that its caller is gone and takes no result.
#[derive(Debug, Clone, Default)]
pub(super) struct Abandoned(Arc<AtomicBool>);

impl Abandoned {
    /// Whether the caller is gone.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Marks the call as abandoned when the caller's future is dropped.
struct Caller(Abandoned);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Release);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum LaneKey {
    Directory(String),
    Mount(String),
}

#[derive(Debug)]
struct Lane {
    places: Arc<Semaphore>,
    /// Calls that wait for a place or have one; the lane is forgotten when there are none.
    users: usize,
}

/// One use of a lane, from the wait for a place to the end of the call.
#[derive(Debug)]
struct Use {
    open: Arc<Mutex<HashMap<LaneKey, Lane>>>,
    key: LaneKey,
    place: Option<OwnedSemaphorePermit>,
}

impl Drop for Use {
    fn drop(&mut self) {
        self.place = None;
        let mut open = lock(&self.open);
        if let Some(lane) = open.get_mut(&self.key) {
            lane.users -= 1;
            if lane.users == 0 {
                open.remove(&self.key);
            }
        }
    }
}

impl Lanes {
    /// The result of `call`, made on a thread of its own once `dir` has a place for it.
    ///
    /// # Errors
    /// [`LostCall`], if the call may or may not have been made but has no result.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        dir: &StoragePath,
        call: impl FnOnce(&Abandoned) -> T + Send + 'static,
    ) -> Result<T, LostCall> {
        let abandoned = Abandoned::default();
        let caller = Caller(abandoned.clone());
        // The directory first: those who wait for a hung directory must not hold places of the mount.
        let directory = self.enter(LaneKey::Directory(dir.to_string())).await;
        let mount = self.enter(LaneKey::Mount(self.mount_of(dir))).await;
        let outcome = tokio::task::spawn_blocking(move || {
            let _places = (directory, mount);
            (!abandoned.is_set()).then(|| call(&abandoned))
        })
        .await?;
        drop(caller);
        outcome.ok_or(LostCall::NeverMade)
    }

    async fn enter(&self, key: LaneKey) -> Use {
        let size = match &key {
            LaneKey::Directory(_) => PER_DIRECTORY,
            LaneKey::Mount(_) => PER_MOUNT,
        };
        let (mut lane_use, places) = {
            let mut open = lock(&self.open);
            let lane = open.entry(key.clone()).or_insert_with(|| Lane {
                places: Arc::new(Semaphore::new(size)),
                users: 0,
            });
            lane.users += 1;
            let places = lane.places.clone();
            let lane_use = Use {
                open: self.open.clone(),
                key,
                place: None,
            };
            (lane_use, places)
        };
        // The only error is a closed semaphore, and no one closes it.
        lane_use.place = places.acquire_owned().await.ok();
        lane_use
    }

    fn mount_of(&self, dir: &StoragePath) -> String {
        let mut mounts = lock(&self.mounts);
        if mounts.read_at.is_none_or(|at| at.elapsed() > MOUNTS_TTL) {
            let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
            mounts.points = mount_points(&String::from_utf8_lossy(&text));
            mounts.read_at = Some(Instant::now());
        }
        mounts.of(dir)
    }
}

#[derive(Debug, Default)]
struct Mounts {
    points: Vec<StoragePath>,
    read_at: Option<Instant>,
}

impl Mounts {
    fn of(&self, dir: &StoragePath) -> String {
        self.points
            .iter()
            .filter(|point| dir == *point || dir.is_below(point))
            .max_by_key(|point| point.as_str().len())
            .map_or_else(|| "/".to_owned(), StoragePath::to_string)
    }
}

/// The mount points in the text of `/proc/self/mountinfo`: the fifth field, with blanks as `\040`.
fn mount_points(mountinfo: &str) -> Vec<StoragePath> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| {
            [("\\040", " "), ("\\011", "\t"), ("\\012", "\n")]
                .iter()
                .fold(point.to_owned(), |text, (code, character)| {
                    text.replace(code, character)
                })
                .replace("\\134", "\\")
        })
        .filter_map(|point| StoragePath::parse(&point).ok())
        .collect()
}

/// A panic elsewhere leaves counters that are still right, so poison is no reason to stop.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;
    use std::sync::atomic::AtomicUsize;

    use futures::future::join_all;
    use tokio::time::timeout;

    use super::*;

    /// A mount that hangs until it is let go, and counts the threads that are stuck in it.
    #[derive(Default)]
    struct HungMount {
        released: Mutex<bool>,
        wake: Condvar,
        stuck: AtomicUsize,
        most_stuck: AtomicUsize,
    }

    impl HungMount {
        fn hang(&self) {
            let now = self.stuck.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_stuck.fetch_max(now, Ordering::SeqCst);
            let mut released = self.released.lock().unwrap();
            while !*released {
                released = self.wake.wait(released).unwrap();
            }
            self.stuck.fetch_sub(1, Ordering::SeqCst);
        }

        fn release(&self) {
            *self.released.lock().unwrap() = true;
            self.wake.notify_all();
        }
    }

    fn path(text: &str) -> StoragePath {
        StoragePath::parse(text).unwrap()
    }

    fn lanes_with_mounts(points: &[&str]) -> Lanes {
        let lanes = Lanes::default();
        {
            let mut mounts = lock(&lanes.mounts);
            mounts.points = points.iter().map(|point| path(point)).collect();
            // Far enough ahead that the real table is not read over it.
            mounts.read_at = Some(Instant::now() + Duration::from_hours(1));
        }
        lanes
    }

    const DEADLINE: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_mins(1);

    /// One round of polls into a hung directory, all given up.
    async fn poll_hung(lanes: &Lanes, dir: &str, mount: &Arc<HungMount>, calls: usize) {
        let dir = path(dir);
        let calls = (0..calls).map(|_| {
            let mount = mount.clone();
            timeout(DEADLINE, lanes.run(&dir, move |_| mount.hang()))
        });
        let answers = join_all(calls).await;
        assert!(answers.iter().all(Result::is_err), "nothing answers");
    }

    /// Rounds of polls until so many threads are stuck.
    async fn poll_until_stuck(
        lanes: &Lanes,
        dirs: &[&str],
        mount: &Arc<HungMount>,
        threads: usize,
    ) {
        let deadline = Instant::now() + LONG;
        while mount.stuck.load(Ordering::SeqCst) < threads {
            assert!(Instant::now() < deadline, "the threads never start");
            for dir in dirs {
                poll_hung(lanes, dir, mount, PER_DIRECTORY).await;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_hung_directory_takes_few_threads_and_delays_no_other() {
        let lanes = lanes_with_mounts(&["/"]);
        let mount = Arc::new(HungMount::default());
        poll_until_stuck(&lanes, &["/hung"], &mount, PER_DIRECTORY).await;
        // More calls than tokio has threads, in rounds as polls come.
        for _ in 0..4 {
            poll_hung(&lanes, "/hung", &mount, 300).await;
        }
        assert_eq!(mount.most_stuck.load(Ordering::SeqCst), PER_DIRECTORY);

        let answer = timeout(LONG, lanes.run(&path("/sound"), |_| 7)).await;
        assert_eq!(answer.unwrap().unwrap(), 7);

        mount.release();
        let again = timeout(LONG, lanes.run(&path("/hung"), |_| 8)).await;
        assert_eq!(again.unwrap().unwrap(), 8);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_directories_of_one_hung_mount_count_together() {
        let lanes = lanes_with_mounts(&["/", "/nfs"]);
        let mount = Arc::new(HungMount::default());
        let dirs = ["/nfs/1", "/nfs/2", "/nfs/3/4", "/nfs/5", "/nfs"];
        poll_until_stuck(&lanes, &dirs, &mount, PER_MOUNT).await;
        for number in 0..10 {
            poll_hung(&lanes, &format!("/nfs/more/{number}"), &mount, 300).await;
        }
        assert_eq!(mount.most_stuck.load(Ordering::SeqCst), PER_MOUNT);
        let answer = timeout(LONG, lanes.run(&path("/sound"), |_| 7)).await;
        assert_eq!(answer.unwrap().unwrap(), 7);
        mount.release();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_call_that_waited_longer_than_its_caller_is_never_made() {
        let lanes = lanes_with_mounts(&["/"]);
        let mount = Arc::new(HungMount::default());
        poll_until_stuck(&lanes, &["/hung"], &mount, PER_DIRECTORY).await;
        let made = Arc::new(AtomicUsize::new(0));
        let hung = path("/hung");
        for _ in 0..10 {
            let made = made.clone();
            let call = lanes.run(&hung, move |_| made.fetch_add(1, Ordering::SeqCst));
            assert!(timeout(Duration::from_millis(5), call).await.is_err());
        }
        mount.release();
        // A call that comes after them in the same lane has passed them all.
        lanes.run(&hung, |_| ()).await.unwrap();
        assert_eq!(made.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_running_call_learns_that_its_caller_is_gone() {
        let lanes = lanes_with_mounts(&["/"]);
        let mount = Arc::new(HungMount::default());
        let (running, mut runs) = tokio::sync::oneshot::channel();
        let (tell, told) = tokio::sync::oneshot::channel();
        let (dir, hung) = (path("/hung"), mount.clone());
        let call = lanes.run(&dir, move |abandoned| {
            running.send(()).unwrap();
            hung.hang();
            tell.send(abandoned.is_set()).unwrap();
        });
        tokio::select! {
            _ = call => panic!("it hangs"),
            started = &mut runs => started.unwrap(),
        }
        mount.release();
        assert!(timeout(LONG, told).await.unwrap().unwrap());
    }

    #[tokio::test]
    async fn lanes_without_calls_are_forgotten() {
        let lanes = Lanes::default();
        for number in 0..100 {
            let dir = path(&format!("/some/{number}"));
            lanes.run(&dir, |_| ()).await.unwrap();
        }
        assert!(lock(&lanes.open).is_empty());
    }

    #[tokio::test]
    async fn a_panic_of_a_call_is_an_error_and_frees_its_place() {
        let lanes = Lanes::default();
        let dir = path("/d");
        for _ in 0..=PER_DIRECTORY {
            let lost = lanes.run(&dir, |_| panic!("on purpose")).await;
            assert!(matches!(lost, Err(LostCall::Thread(_))));
        }
    }

    #[test]
    fn mounts_are_read_as_the_kernel_writes_them() {
        let mounts = Mounts {
            points: mount_points(
                "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                 30 22 0:50 / /mnt/a\\040b rw - nfs4 server:/x rw\n\
                 31 22 0:51 / /mnt rw shared:3 - tmpfs tmpfs rw\n\
                 short line\n",
            ),
            read_at: None,
        };
        assert_eq!(mounts.of(&path("/mnt/a b/c")), "/mnt/a b");
        assert_eq!(mounts.of(&path("/mnt/a b")), "/mnt/a b");
        assert_eq!(mounts.of(&path("/mnt/ab")), "/mnt");
        assert_eq!(mounts.of(&path("/etc")), "/");
    }
}
