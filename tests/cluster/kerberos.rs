//! Kerberos: with good credentials a job stops, with bad ones nothing happens but an alarm.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::remote::fresh_path;
use crate::common::kdc::Ticket;
use crate::common::place::{Place, SOON};
use crate::common::{CutProxy, Job, SecureHdfs, Traffic, wait_until};

const HOUR: Duration = Duration::from_hours(1);
/// Long enough for a watcher to come up on a busy machine.
const SHORT: Duration = Duration::from_secs(20);

/// A control directory of the principal `etl`, and a place that acts with its ticket.
struct Secured {
    secure: &'static SecureHdfs,
    control: String,
    owner: Place,
}

type Env = Vec<(OsString, OsString)>;

impl Secured {
    fn new(name: &str, ticket: &Ticket) -> Result<Self> {
        let secure = SecureHdfs::shared()?;
        let dir = fresh_path(name);
        secure.hdfs().dfs(&["-mkdir", &dir])?;
        secure.hdfs().dfs(&["-chown", "etl", &dir])?;
        let control = format!("hdfs://{dir}/control");
        let env = secure.kdc().client_env(Some(ticket));
        let owner = Self::place_on(secure, &control, "", env)?.init()?;
        Ok(Self {
            secure,
            control,
            owner,
        })
    }

    fn place_on(secure: &SecureHdfs, control: &str, keys: &str, env: Env) -> Result<Place> {
        let conf_dir = secure.hdfs().conf_dir().display();
        let hadoop = format!("conf-dir = \"{conf_dir}\"\n{keys}");
        Place::with_control("kerberos", control, &hadoop, env)
    }

    /// Another place of the same control directory, with these keys of `[hadoop]` and this environment.
    fn place(&self, keys: &str, env: Env) -> Result<Place> {
        Self::place_on(self.secure, &self.control, keys, env)
    }

    fn marker(&self, job: &str) -> String {
        format!("{}/markers/{job}.blue", self.control)
    }

    fn touch(&self, job: &str) -> Result<()> {
        succeed(&self.owner, &["marker", "touch", &self.marker(job)]).map(drop)
    }

    /// Removes the marker of a watched job and waits until that has stopped, once.
    fn stop(&self, place: &Place, job: &Job, name: &str) -> Result<()> {
        ensure!(job.count("TERM") == 0, "{:?}", job.notes());
        succeed(&self.owner, &["marker", "rm", &self.marker(name)])?;
        let waited = ["wait", name, "--until", "stopped", "--timeout", "1m"];
        let receipt = succeed(place, &waited).with_context(|| place.log(name))?;
        assert_eq!(receipt["outcome"], "stopped", "{receipt:#}");
        assert_eq!(job.count("TERM"), 1);
        Ok(())
    }
}

/// The document of a command that has to succeed.
fn succeed(place: &Place, args: &[&str]) -> Result<Value> {
    let ran = place.stepdown(&[&["--json"], args].concat())?;
    ensure!(ran.is_ok(), "{args:?}: {ran:?}");
    Ok(serde_json::from_str(&ran.stdout).unwrap_or_default())
}

/// Starts a job whose end is noticed at once, since its parent waits for it.
fn start_job(place: &Place, name: &str) -> Result<(Job, crate::common::job::BareJob)> {
    let job = place.job(name)?;
    let bare = job.start(&["drain=0.2", "most=600"])?;
    place.write_pid(name, bare.pid())?;
    Ok((job, bare))
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one server, one trouble after the other"
)]
fn tickets_keytabs_and_tokens_stop_a_job_and_their_lack_does_not() -> Result<()> {
    let secure = SecureHdfs::shared()?;
    let kdc = secure.kdc();
    let etl = kdc.add_principal("etl")?;
    let ticket = kdc.kinit(&etl, HOUR)?;
    let secured = Secured::new("login", &ticket)?;
    let keytab =
        |file: &str, principal: &str| format!("keytab = \"{file}\"\nprincipal = \"{principal}\"\n");
    let etl_keytab = etl.keytab.to_string_lossy().into_owned();
    let token = secure.fetch_delegation_token(&ticket)?;
    let mut with_token = kdc.client_env(None);
    with_token.push(("HADOOP_TOKEN_FILE_LOCATION".into(), token.into()));
    let none = kdc.client_env(None);

    let good = [
        ("ticket", String::new(), kdc.client_env(Some(&ticket))),
        ("keytab", keytab(&etl_keytab, &etl.name), none.clone()),
        ("token", String::new(), with_token),
    ];
    for (name, keys, env) in good {
        let place = secured.place(&keys, env)?;
        place.configure_with("call-timeout = \"5s\"", &place.pid_file_job(name, "", ""))?;
        let (job, mut bare) = start_job(&place, name)?;
        secured.touch(name)?;
        let watch = place.watch(name, &[])?;
        place.await_log(name, " armed ")?;
        let rounds = place.await_rounds(name, 5)?;
        secured.stop(&place, &job, name)?;
        wait_until(SOON, "the job is gone", || bare.exit_status().is_some())?;
        assert_eq!(place.count_hooks("on-alarm"), 0, "{:?}", place.hooks());
        println!("{name}: {rounds} rounds of polls, one stop");
        assert!(watch.terminate()?.success());
    }

    // A job that is armed; then its watcher comes back with credentials that are no good.
    let owner = &secured.owner;
    let table = owner.pid_file_job("standing", "", "");
    owner.configure_with("call-timeout = \"5s\"", &table)?;
    let (job, mut bare) = start_job(owner, "standing")?;
    secured.touch("standing")?;
    let watch = owner.watch("first", &[])?;
    owner.await_log("first", " armed ")?;
    watch.kill()?;

    let expired = kdc.expired_ticket(&etl)?;
    let simple = "overrides = { \"hadoop.security.authentication\" = \"simple\" }\n";
    let bad: [(&str, String, Env, &[&str]); 6] = [
        (
            "no ticket",
            String::new(),
            none.clone(),
            &["no Kerberos ticket", "run kinit"],
        ),
        (
            "expired ticket",
            String::new(),
            kdc.client_env(Some(&expired)),
            &["expired at", "run kinit"],
        ),
        (
            "another's keytab",
            keytab(&etl_keytab, "nobody@STEPDOWN.TEST"),
            none.clone(),
            &["has no key of nobody@STEPDOWN.TEST", "etl@STEPDOWN.TEST"],
        ),
        (
            "no keytab",
            keytab("/nonexistent/etl.keytab", &etl.name),
            none.clone(),
            &["cannot read the keytab /nonexistent/etl.keytab"],
        ),
        (
            "another's ticket",
            "principal = \"nobody@STEPDOWN.TEST\"\n".to_owned(),
            kdc.client_env(Some(&ticket)),
            &["is of etl@STEPDOWN.TEST, not of nobody@STEPDOWN.TEST"],
        ),
        (
            "simple",
            simple.to_owned(),
            none.clone(),
            &[
                "requires Kerberos",
                "hadoop.security.authentication is simple",
            ],
        ),
    ];
    let marker = secured.marker("standing");
    for (name, keys, env, words) in &bad {
        let place = secured.place(keys, env.clone())?;
        place.configure_with("call-timeout = \"5s\"", &table)?;
        for args in [
            &["marker", "stat", &marker][..],
            &["marker", "rm", &marker],
            &["marker", "touch", &marker],
            &["marker", "ls"],
            &["init"],
        ] {
            let ran = place.stepdown(args)?;
            assert_eq!(ran.status.code(), Some(5), "{name} {args:?}: {ran:?}");
            for word in *words {
                assert!(
                    ran.stderr.contains(word),
                    "{name}: {word:?} in {}",
                    ran.stderr
                );
            }
        }
        let watch = place.watch("bad", &[])?;
        wait_until(SOON * 2, "the alarm is raised", || {
            place.count_hooks("on-alarm standing") >= 1
        })
        .with_context(|| place.log("bad"))?;
        let rounds = place.await_rounds("bad", 5)?;
        assert_eq!(job.notes().len(), 1, "{name}: {:?}", job.notes());
        assert_eq!(bare.exit_status(), None, "{name}");
        println!("{name}: {rounds} rounds of polls, no stop");
        // 6: a call was still under way that nobody answers.
        let ended = watch.terminate()?;
        let told = place.log("bad");
        assert!(
            ended.success() || ended.code() == Some(6),
            "{name}: {ended}\n{told}"
        );
    }
    // A ticket that is good, of somebody who may not.
    let mallory = kdc.kinit(&kdc.add_principal("mallory")?, HOUR)?;
    let place = secured.place("", kdc.client_env(Some(&mallory)))?;
    let ran = place.stepdown(&["marker", "rm", &marker])?;
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    assert!(ran.stderr.contains("permission denied"), "{ran:?}");

    let stat = succeed(owner, &["marker", "stat", &marker])?;
    assert_eq!(stat["state"], "present", "nothing was changed");
    let watch = owner.watch("last", &[])?;
    owner.await_log("last", "following the attempt")?;
    secured.stop(owner, &job, "standing")?;
    assert!(watch.terminate()?.success());
    Ok(())
}

#[test]
fn a_ticket_that_is_renewed_in_time_or_late_is_taken_up() -> Result<()> {
    let secure = SecureHdfs::shared()?;
    let kdc = secure.kdc();
    let principal = kdc.add_principal("etl/renewed")?;
    let lasting = kdc.kinit(&principal, HOUR)?;
    let secured = Secured::new("renewal", &lasting)?;

    // Through a proxy: a new connection needs a new authentication, an open one does not.
    let proxy = CutProxy::start(secure.hdfs().namenode().port())?;
    let conf_dir = proxy.conf_dir(secure.hdfs())?;
    let (job, mut bare) = start_job(&secured.owner, "clicks")?;
    secured.touch("clicks")?;
    let ticket = kdc.kinit(&principal, SHORT)?;
    let hadoop = format!("conf-dir = \"{}\"", conf_dir.display());
    let env = kdc.client_env(Some(&ticket));
    let place = Place::with_control("kerberos", &secured.control, &hadoop, env)?;
    let table = secured.owner.pid_file_job("clicks", "", "");
    place.configure_with("call-timeout = \"5s\"\nalarm-after = \"2s\"", &table)?;
    let watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;

    wait_until(SHORT * 3, "the ticket has expired", || {
        kdc.is_valid(&ticket).is_ok_and(|valid| !valid)
    })?;
    proxy.set(Traffic::Drop);
    proxy.set(Traffic::Pass);
    place.await_log("watch", "expired at")?;
    wait_until(SOON, "the alarm is raised", || {
        place.count_hooks("on-alarm clicks marker-unknown") == 1
    })?;
    let rounds = place.await_rounds("watch", 5)?;
    assert_eq!(job.count("TERM"), 0);
    assert!(bare.exit_status().is_none());

    kdc.renew(&ticket, &principal, HOUR)?;
    place.await_log("watch", "the alarm is over")?;
    println!("{rounds} rounds of polls without a ticket, no stop");
    secured.stop(&place, &job, "clicks")?;
    wait_until(SOON, "the job is gone", || bare.exit_status().is_some())?;
    assert!(watch.terminate()?.success());
    Ok(())
}
