//! `stepdown doctor`

use clap::Args;
use serde::Serialize;

use crate::cli::Context;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::Result;
use crate::cli::output::{Look, Report, Tone, printable};
use crate::doctor::control::Probes;
use crate::doctor::{Check, Verdict, control, file_sinks, hadoop, host, rollouts};

/// Check whether stepdown can work here
///
/// Looks at this host, the configuration, the Hadoop configuration and its credentials, the storages,
/// permissions and clocks, and says of each what is wrong and what to do. Exit code 0 if stepdown can
/// work, with or without warnings; 3 if it cannot.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown doctor
  sudo -u etl stepdown doctor --config /etc/stepdown/stepdown.toml")]
pub struct DoctorArgs {
    /// Write no probe files into the control directory, so that some checks are left out
    #[arg(long, visible_alias = "dry-run")]
    pub no_probes: bool,
}

/// The result of `doctor`.
#[derive(Debug, Serialize)]
struct DoctorReport {
    /// The worst of all checks.
    verdict: Verdict,
    checks: Vec<Check>,
}

impl Report for DoctorReport {
    fn text(&self, look: Look) -> String {
        let mut lines = Vec::new();
        for check in &self.checks {
            let (tone, word) = match check.verdict {
                Verdict::Ok => (Tone::Good, "ok  "),
                Verdict::Warn => (Tone::Warn, "warn"),
                Verdict::Fail => (Tone::Bad, "FAIL"),
            };
            let word = look.paint(tone, word);
            lines.push(format!(
                "{word}  {}: {}",
                printable(&check.name),
                printable(&check.found)
            ));
            if let Some(advice) = &check.advice {
                lines.push(format!("      -> {}", printable(advice)));
            }
        }
        let count = |verdict| self.checks.iter().filter(|c| c.verdict == verdict).count();
        lines.push(String::new());
        lines.push(match (count(Verdict::Fail), count(Verdict::Warn)) {
            (0, 0) => look.paint(Tone::Good, "stepdown can work here"),
            (0, n) => look.paint(
                Tone::Warn,
                &format!("stepdown can work here, {n} warning(s)"),
            ),
            (n, _) => look.paint(
                Tone::Bad,
                &format!("stepdown cannot work here, {n} check(s) failed"),
            ),
        });
        lines.join("\n")
    }
}

/// Runs the command.
///
/// # Errors
/// All problems of the configuration; everything else is a check that failed.
pub async fn run(args: DoctorArgs, context: &mut Context) -> Result<Status> {
    let app = context.open()?;
    let probes = if args.no_probes {
        Probes::LookOnly
    } else {
        Probes::Write
    };
    let mut checks = host::checks(app.loaded(), &context.environment);
    checks.extend(hadoop::checks(&app).await);
    checks.extend(control::checks(&app, probes).await);
    checks.extend(file_sinks::checks(&app).await);
    checks.extend(rollouts::checks(&app).await);
    let verdict = checks
        .iter()
        .map(|check| check.verdict)
        .max()
        .unwrap_or(Verdict::Ok);
    context.out.result(&DoctorReport { verdict, checks })?;
    Ok(match verdict {
        Verdict::Ok | Verdict::Warn => Exit::Ok.into(),
        Verdict::Fail => Exit::Findings.into(),
    })
}
