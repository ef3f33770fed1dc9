//! The `command` backend: the operator's own programs ask, observe and kill.
//!
//! The programs are run without a shell, in a process group of their own, with a time-out, and find
//! the stop in their environment (`STEPDOWN_JOB`, `STEPDOWN_SLOT`, `STEPDOWN_ATTEMPT`,
//! `STEPDOWN_STOP_ID`, `STEPDOWN_MARKER`, `STEPDOWN_GENERATION`, `STEPDOWN_DRAIN_DEADLINE_SECONDS`).
//!
//! - `observe` follows the exit codes of init scripts: 0 it runs, and the first line of its output
//!   names the attempt; 3 it does not run, and a line `exit=<code>` may say how it ended; all else:
//!   unknown.
//! - `request` and `force`: 0 asked, all else failed (it is repeated). They must address the attempt
//!   that they are given, and refuse a generation lower than one that they saw before.

use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::io::AsyncReadExt as _;

use super::{Backend, BackendError, Exit, Freshness, Observation, StopOrder, Way};
use crate::model::{AttemptId, JobName, Slot};
use crate::process::{Program, program};
use crate::storage::StorageUri;

/// Output beyond this is not read.
const MAX_OUTPUT_BYTES: u64 = 64 << 10;

/// How long the output of a program that has ended is waited for.
const LEFT_OVERS: Duration = Duration::from_millis(200);

/// The programs of a command backend.
#[derive(Debug, Clone)]
pub struct CommandOptions {
    /// Asks the attempt to stop.
    pub request: Vec<String>,
    /// Says whether the attempt runs.
    pub observe: Vec<String>,
    /// Kills the attempt; empty if there is no such program.
    pub force: Vec<String>,
    /// How long each may take; then it is killed and has failed.
    pub timeout: Duration,
}

/// Asks and observes by running programs.
#[derive(Debug)]
pub struct CommandBackend {
    options: CommandOptions,
    job: JobName,
    slot: Slot,
    marker: StorageUri,
}

/// What a program said.
#[derive(Debug)]
struct Output {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Output {
    fn complaint(&self, argv: &[String]) -> String {
        let how = match self.code {
            Some(code) => format!("ended with code {code}"),
            None => "was ended by a signal".to_owned(),
        };
        let said = self
            .stderr
            .lines()
            .last()
            .map_or(String::new(), |line| format!(": {line}"));
        format!("{} {how}{said}", argv.first().map_or("", String::as_str))
    }
}

impl CommandBackend {
    /// The backend of one slot.
    pub fn new(options: CommandOptions, job: JobName, slot: Slot, marker: StorageUri) -> Self {
        Self {
            options,
            job,
            slot,
            marker,
        }
    }

    async fn call(&self, argv: &[String], env: &[(&str, String)]) -> Result<Output, BackendError> {
        let failed = |why: String| BackendError::Failed {
            backend: "command",
            why,
        };
        let Some(name) = argv.first() else {
            return Err(failed("no program is configured".to_owned()));
        };
        let mut command = program::command(argv);
        command
            .env("STEPDOWN_JOB", self.job.as_str())
            .env("STEPDOWN_SLOT", self.slot.as_str())
            .env("STEPDOWN_MARKER", self.marker.to_string())
            .envs(env.iter().map(|(key, value)| (key, value)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut program = Program::start(&mut command)
            .map_err(|error| failed(format!("{name} cannot be run: {error}")))?;
        let (stdout, stderr) = program.take_output();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let run = async {
            let mut reading = std::pin::pin!(async {
                tokio::join!(
                    read_limited(stdout, &mut out),
                    read_limited(stderr, &mut err)
                )
            });
            tokio::select! {
                _ = &mut reading => program.wait().await,
                ended = program.wait() => {
                    // What it left in the background may keep the pipes open for ever.
                    let _late = tokio::time::timeout(LEFT_OVERS, reading).await;
                    ended
                }
            }
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match tokio::time::timeout(self.options.timeout, run).await {
            Ok(Ok(status)) => Ok(Output {
                code: status.code(),
                stdout: text(&out),
                stderr: text(&err),
            }),
            Ok(Err(error)) => Err(failed(format!("{name} was lost: {error}"))),
            Err(_) => Err(failed(format!(
                "{name} did not end within {} s and was killed",
                self.options.timeout.as_secs_f64()
            ))),
        }
    }

    async fn act(
        &self,
        argv: &[String],
        attempt: &AttemptId,
        order: &StopOrder,
    ) -> Result<(), BackendError> {
        let env = [
            ("STEPDOWN_ATTEMPT", attempt.to_string()),
            ("STEPDOWN_STOP_ID", order.stop_id.to_string()),
            ("STEPDOWN_GENERATION", order.generation.to_string()),
            (
                "STEPDOWN_DRAIN_DEADLINE_SECONDS",
                order.drain_deadline.as_secs().to_string(),
            ),
        ];
        let output = self.call(argv, &env).await?;
        if output.code == Some(0) {
            return Ok(());
        }
        Err(BackendError::Failed {
            backend: "command",
            why: output.complaint(argv),
        })
    }

    async fn look(&self, attempt: Option<&AttemptId>) -> Observation {
        let env: Vec<_> = attempt
            .map(|attempt| ("STEPDOWN_ATTEMPT", attempt.to_string()))
            .into_iter()
            .collect();
        match self.call(&self.options.observe, &env).await {
            Ok(output) => read_observation(&output, attempt, &self.options.observe),
            Err(error) => Observation::Unknown {
                why: error.to_string(),
            },
        }
    }
}

async fn read_limited(pipe: Option<impl tokio::io::AsyncRead + Unpin>, bytes: &mut Vec<u8>) {
    if let Some(pipe) = pipe {
        // What could be read before an error is still worth showing.
        let mut limited = pipe.take(MAX_OUTPUT_BYTES);
        let _read = limited.read_to_end(bytes).await;
    }
}

fn read_observation(output: &Output, attempt: Option<&AttemptId>, argv: &[String]) -> Observation {
    match output.code {
        Some(0) => {
            let name = output
                .stdout
                .lines()
                .next()
                .map(str::trim)
                .unwrap_or_default();
            if name.is_empty() {
                let why = "observe said that it runs, but named no attempt on its first line";
                return Observation::Unknown {
                    why: why.to_owned(),
                };
            }
            let seen = AttemptId::Named {
                name: name.to_owned(),
            };
            match attempt {
                Some(attempt) if *attempt != seen => Observation::Restarted { attempt: seen },
                _ => Observation::Running,
            }
        }
        Some(3) => {
            let exit = output
                .stdout
                .lines()
                .find_map(|line| line.trim().strip_prefix("exit=")?.parse().ok())
                .map(|code| Exit::Code { code });
            Observation::Stopped { exit }
        }
        _ => Observation::Unknown {
            why: output.complaint(argv),
        },
    }
}

#[async_trait]
impl Backend for CommandBackend {
    fn name(&self) -> &'static str {
        "command"
    }

    async fn find_attempt(&self) -> Result<Option<AttemptId>, BackendError> {
        let output = self.call(&self.options.observe, &[]).await?;
        match read_observation(&output, None, &self.options.observe) {
            Observation::Running | Observation::Stopping => {
                let name = output
                    .stdout
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .to_owned();
                Ok(Some(AttemptId::Named { name }))
            }
            Observation::Restarted { attempt } => Ok(Some(attempt)),
            Observation::Stopped { .. } => Ok(None),
            Observation::Unknown { why } => Err(BackendError::Failed {
                backend: "command",
                why,
            }),
        }
    }

    fn check_reach(&self, _: &AttemptId) -> Result<(), BackendError> {
        Ok(())
    }

    async fn request_stop(
        &self,
        attempt: &AttemptId,
        order: &StopOrder,
    ) -> Result<(), BackendError> {
        self.act(&self.options.request, attempt, order).await
    }

    async fn observe(&self, attempt: &AttemptId, _: Freshness) -> Observation {
        self.look(Some(attempt)).await
    }

    async fn await_change(&self, _: &AttemptId, at_most: Duration) {
        tokio::time::sleep(at_most).await;
    }

    async fn await_news(&self, _: Option<&AttemptId>, pace: Duration) {
        tokio::time::sleep(pace).await;
    }

    async fn force(&self, attempt: &AttemptId, order: &StopOrder) -> Result<(), BackendError> {
        if self.options.force.is_empty() {
            return Err(BackendError::Unsupported {
                backend: "command",
                action: "kill an attempt",
            });
        }
        self.act(&self.options.force, attempt, order).await
    }

    fn drains_itself(&self) -> bool {
        false
    }

    async fn way(&self, _: &AttemptId, _: Timestamp) -> Way {
        Way::Asked
    }

    async fn has_drained(&self, _: &AttemptId) -> Option<bool> {
        None
    }

    async fn reports_running(&self, _: &AttemptId) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(observe: &str) -> CommandBackend {
        let sh = |script: &str| vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
        CommandBackend::new(
            CommandOptions {
                request: sh("test \"$STEPDOWN_ATTEMPT\" = app_1 && test -n \"$STEPDOWN_STOP_ID\""),
                observe: sh(observe),
                force: Vec::new(),
                timeout: Duration::from_secs(5),
            },
            "clicks".parse().unwrap(),
            Slot::Blue,
            "/m/clicks.blue".parse().unwrap(),
        )
    }

    fn named(name: &str) -> AttemptId {
        AttemptId::Named {
            name: name.to_owned(),
        }
    }

    #[tokio::test]
    async fn exit_codes_of_observe() {
        let mine = named("app_1");
        for (script, expected) in [
            ("echo app_1", Observation::Running),
            (
                "echo app_2",
                Observation::Restarted {
                    attempt: named("app_2"),
                },
            ),
            ("exit 3", Observation::Stopped { exit: None }),
            (
                "echo exit=7; exit 3",
                Observation::Stopped {
                    exit: Some(Exit::Code { code: 7 }),
                },
            ),
        ] {
            assert_eq!(
                backend(script).observe(&mine, Freshness::Now).await,
                expected,
                "{script}"
            );
        }
        // What it leaves in the background keeps the pipe.
        let seen = backend("echo app_1; sleep 60 &")
            .observe(&mine, Freshness::Now)
            .await;
        assert_eq!(seen, Observation::Running);
        for unknown in ["true", "exit 1", "exit 4", "kill -9 $$", "sleep 60"] {
            let mut backend = backend(unknown);
            backend.options.timeout = Duration::from_millis(200);
            let seen = backend.observe(&mine, Freshness::Now).await;
            assert!(
                matches!(seen, Observation::Unknown { .. }),
                "{unknown}: {seen:?}"
            );
        }
    }

    #[tokio::test]
    async fn request_sees_the_attempt_and_the_stop() {
        let order = StopOrder {
            job: "clicks".parse().unwrap(),
            slot: Slot::Blue,
            stop_id: named("app_1").stop_id(Slot::Blue),
            generation: crate::model::Generation(3),
            marker: "/m/clicks.blue".parse().unwrap(),
            drain_deadline: Duration::from_mins(1),
            instead_of_drain: false,
        };
        let backend = backend("true");
        assert!(backend.request_stop(&named("app_1"), &order).await.is_ok());
        assert!(backend.request_stop(&named("app_9"), &order).await.is_err());
        assert!(backend.force(&named("app_1"), &order).await.is_err());
    }
}
