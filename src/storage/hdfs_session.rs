//! One client of one NameNode, on a thread and a runtime of its own.
//!
//! The published client has no time-outs, keeps its connection and its lease renewer for the life of
//! their runtime, talks to the Kerberos library with blocking calls, and panics in places. Here all of
//! that stays on one thread: callers wait with a deadline, a panic is an error, and when the last
//! user lets a session go, its runtime ends with every task and socket in it.

use std::future::Future;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hdfs_native::{Client, ClientBuilder, HdfsError};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::hdfs_error::Failure;

/// Threads of one session that resolve host names; a hung resolver must not take all there are.
const RESOLVER_THREADS: usize = 8;

/// How a session reaches and convinces its NameNode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionSpec {
    /// `hdfs://host:port` or `hdfs://nameservice`.
    pub(super) url: String,
    /// The whole configuration, resolved: the client reads no file.
    pub(super) config: Vec<(String, String)>,
    /// User of simple authentication.
    pub(super) user: Option<String>,
    /// Principal of Kerberos.
    pub(super) principal: Option<String>,
    /// Keytab of Kerberos.
    pub(super) keytab: Option<String>,
}

/// A directory that cannot exist: without it the client would read `HADOOP_CONF_DIR` by rules of its
/// own, under the values it is given.
const NO_CONF_DIR: &str = "/dev/null/no-hadoop-configuration";

impl SessionSpec {
    fn build(self) -> Result<Client, HdfsError> {
        let mut builder = ClientBuilder::new()
            .with_url(self.url)
            .with_config_dir(NO_CONF_DIR)
            .with_config(self.config)
            .with_io_runtime(Handle::current());
        if let Some(user) = self.user {
            builder = builder.with_user(user);
        }
        if let Some(principal) = self.principal {
            builder = builder.with_kerberos_principal(principal);
        }
        if let Some(keytab) = self.keytab {
            builder = builder.with_kerberos_keytab(keytab);
        }
        builder.build()
    }
}

/// A running client. Dropping the last reference ends it.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    runtime: Handle,
    /// Its end is what the thread waits for.
    _end: oneshot::Sender<()>,
}

/// Told by a long call that it moves on, so that its deadline starts anew.
#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<watch::Sender<()>>);

impl Progress {
    /// For a call whose progress nobody follows.
    pub(super) fn ignored() -> Self {
        Self(Arc::new(watch::Sender::new(())))
    }

    /// Says that the call moved on.
    pub(super) fn advance(&self) {
        self.0.send_replace(());
    }
}

impl Session {
    /// Starts a client; it connects with its first call.
    ///
    /// # Errors
    /// `TimedOut` at `deadline`; `Client` for a configuration or credentials that it refuses.
    pub(super) async fn start(
        spec: SessionSpec,
        deadline: Instant,
    ) -> Result<Arc<Session>, Failure> {
        let (end, ended) = oneshot::channel::<()>();
        let (started, start) = oneshot::channel();
        let spawned = thread::Builder::new()
            .name("hdfs".to_owned())
            .spawn(move || {
                let runtime = Builder::new_current_thread()
                    .enable_all()
                    .max_blocking_threads(RESOLVER_THREADS)
                    .build();
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        let _ = started.send(Err(HdfsError::IOError(error)));
                        return;
                    }
                };
                runtime.block_on(async {
                    // Looking for credentials may take the Kerberos library a while.
                    let built = spec.build().map(|client| (client, Handle::current()));
                    if started.send(built).is_ok() {
                        // Nothing is ever sent: this returns when the session is dropped.
                        let _ = ended.await;
                    }
                });
                // A resolver thread that hangs is left behind.
                runtime.shutdown_background();
            });
        spawned.map_err(|error| Failure::Client(HdfsError::IOError(error)))?;
        match tokio::time::timeout_at(deadline, start).await {
            Ok(Ok(Ok((client, runtime)))) => Ok(Arc::new(Session {
                client,
                runtime,
                _end: end,
            })),
            Ok(Ok(Err(error))) => Err(Failure::Client(error)),
            Ok(Err(_)) => Err(Failure::Panicked("while it was built".to_owned())),
            Err(_) => Err(Failure::TimedOut),
        }
    }

    /// The client, for a call within [`Session::run`].
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// The result of `call`, run on the session's thread.
    ///
    /// # Errors
    /// `TimedOut` at `deadline`: the call is cancelled then, but what it sent may still be done.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        call: impl Future<Output = Result<T, HdfsError>> + Send + 'static,
    ) -> Result<T, Failure> {
        let mut task = self.spawn(call);
        match tokio::time::timeout_at(deadline, &mut task).await {
            Ok(joined) => result(joined),
            Err(_) => Err(Failure::TimedOut),
        }
    }

    /// The result of a call that may be long, as long as it moves on at least every `pause`.
    ///
    /// # Errors
    /// `TimedOut` when it did not.
    pub(super) async fn run_while_advancing<T, Fut>(
        &self,
        pause: Duration,
        call: impl FnOnce(Progress) -> Fut,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, HdfsError>> + Send + 'static,
    {
        let (sender, mut progress) = watch::channel(());
        let mut task = self.spawn(call(Progress(Arc::new(sender))));
        loop {
            let deadline = Instant::now() + pause;
            tokio::select! {
                biased;
                joined = &mut task => return result(joined),
                // An error only says that no more progress will come.
                Ok(()) = progress.changed() => {}
                () = tokio::time::sleep_until(deadline) => return Err(Failure::TimedOut),
            }
        }
    }

    /// Runs a task on the session's thread until it ends or the handle is dropped.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> AbortOnDropHandle<T> {
        AbortOnDropHandle::new(self.runtime.spawn(task))
    }
}

fn result<T>(joined: Result<Result<T, HdfsError>, tokio::task::JoinError>) -> Result<T, Failure> {
    match joined {
        Ok(result) => result.map_err(Failure::Client),
        Err(error) => Err(match error.try_into_panic() {
            Ok(panic) => Failure::Panicked(message(panic.as_ref())),
            Err(_cancelled) => Failure::Closed,
        }),
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> SessionSpec {
        SessionSpec {
            url: "hdfs://127.0.0.1:1".to_owned(),
            config: vec![(
                "dfs.client.failover.max.attempts".to_owned(),
                "0".to_owned(),
            )],
            user: Some("ann".to_owned()),
            principal: None,
            keytab: None,
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn a_panic_a_hang_and_an_error_are_values() {
        let session = Session::start(spec(), soon()).await.unwrap();
        let panicked = session.run(soon(), async { panic!("at once") }).await;
        assert!(matches!(panicked, Err::<(), _>(Failure::Panicked(text)) if text == "at once"));
        let short = Instant::now() + Duration::from_millis(20);
        let hung = session
            .run(short, std::future::pending::<Result<(), _>>())
            .await;
        assert!(matches!(hung, Err(Failure::TimedOut)));
        let client = session.client();
        let refused = session
            .run(soon(), async move { client.get_file_info("/").await })
            .await;
        assert!(matches!(
            refused,
            Err(Failure::Client(HdfsError::IOError(_)))
        ));
    }

    #[tokio::test]
    async fn a_blocked_thread_does_not_hold_its_caller() {
        let session = Session::start(spec(), soon()).await.unwrap();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let short = Instant::now() + Duration::from_millis(20);
        let blocked = session.run(short, async move {
            let _ = released.recv();
            Ok(())
        });
        assert!(matches!(blocked.await, Err(Failure::TimedOut)));
        drop(release);
        assert!(session.run(soon(), async { Ok(()) }).await.is_ok());
    }

    #[tokio::test]
    async fn a_long_call_lives_while_it_advances() {
        let session = Session::start(spec(), soon()).await.unwrap();
        let pause = Duration::from_millis(200);
        let long = session.run_while_advancing(pause, |progress| async move {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                progress.advance();
            }
            Ok(())
        });
        assert!(long.await.is_ok());
        let stuck = session.run_while_advancing(pause, |progress| async move {
            progress.advance();
            std::future::pending::<Result<(), _>>().await
        });
        assert!(matches!(stuck.await, Err(Failure::TimedOut)));
    }

    #[tokio::test]
    async fn what_runs_in_a_session_ends_with_it() {
        let session = Session::start(spec(), soon()).await.unwrap();
        let (kept, gone) = oneshot::channel::<()>();
        // Not aborted by a handle, as the client's own tasks are not.
        session.runtime.spawn(async move {
            let _kept = kept;
            std::future::pending::<()>().await;
        });
        assert!(session.run(soon(), async { Ok(()) }).await.is_ok());
        drop(session);
        let ended = tokio::time::timeout(Duration::from_secs(10), gone).await;
        assert!(matches!(ended, Ok(Err(_))));
    }
}
