//! What `watch` tells systemd, on the socket that a unit with `Type=notify` gives it. A real systemd is in
//! `tests/cluster/systemd.rs`.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::common::place::{Place, SOON};

/// The receiver of what a service tells.
struct Ear(UnixDatagram);

impl Ear {
    fn new(place: &Place) -> Result<Self> {
        let socket = UnixDatagram::bind(place.path("notify")).context("no socket")?;
        socket.set_read_timeout(Some(SOON))?;
        Ok(Self(socket))
    }

    fn next(&self) -> Result<String> {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).context("nothing was told")?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// The next message that is no sign of life.
    fn next_change(&self) -> Result<String> {
        for _ in 0..1_000 {
            let told = self.next()?;
            if told.trim() != "WATCHDOG=1" {
                return Ok(told);
            }
        }
        bail!("nothing but signs of life")
    }
}

fn uptime_us() -> u128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap()).as_micros()
}

#[test]
fn systemd_is_told_of_start_life_reload_and_end() -> Result<()> {
    let place = Place::new("notify")?;
    place.configure(&place.pid_file_job("clicks", "", ""))?;
    let ear = Ear::new(&place)?;
    let socket = place.text("notify");
    let env = [
        ("NOTIFY_SOCKET", socket.as_str()),
        ("WATCHDOG_USEC", "600000"),
    ];
    let mut watch = place.watch("watch", &env)?;
    assert_eq!(ear.next_change()?.trim(), "READY=1");
    ensure!(place.log("watch").contains("watching"), "ready too early");
    // Every third of the time at least, or it would be taken for hung.
    for _ in 0..5 {
        let begun = std::time::Instant::now();
        assert_eq!(ear.next()?.trim(), "WATCHDOG=1");
        let waited = begun.elapsed();
        ensure!(waited < Duration::from_millis(600), "{waited:?}");
    }
    // A configuration that is taken over, and one that is not: systemd must not wait for ever.
    for (jobs, said) in [
        (place.pid_file_job("views", "", ""), "was read again"),
        (
            "[jobs.clicks]\nnonsense = 1\n".to_owned(),
            "was not taken over",
        ),
    ] {
        place.configure(&jobs)?;
        let before = uptime_us();
        watch.signal(Signal::HUP)?;
        let told = ear.next_change()?;
        let at = told
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .with_context(|| format!("{told:?}"))?;
        let at: u128 = at.trim().parse()?;
        ensure!((before..=uptime_us()).contains(&at), "{at}");
        assert_eq!(ear.next_change()?.trim(), "READY=1");
        ensure!(place.log("watch").contains(said), "{said}");
    }
    watch.signal(Signal::TERM)?;
    assert_eq!(ear.next_change()?.trim(), "STOPPING=1");
    let status = watch.await_end(SOON)?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// A unit without `WatchdogSec`, and a process that systemd did not start, get no signs of life.
#[test]
fn nobody_is_told_who_did_not_ask() -> Result<()> {
    let place = Place::new("notify-less")?;
    place.configure(&place.pid_file_job("clicks", "", ""))?;
    let ear = Ear::new(&place)?;
    let socket = place.text("notify");
    let mut watch = place.watch("watch", &[("NOTIFY_SOCKET", socket.as_str())])?;
    assert_eq!(ear.next()?.trim(), "READY=1");
    place.await_rounds("watch", 5)?;
    watch.signal(Signal::TERM)?;
    assert_eq!(ear.next()?.trim(), "STOPPING=1");
    watch.await_end(SOON)?;
    // A socket that is gone ends nothing.
    fs::remove_file(place.path("notify"))?;
    let mut watch = place.watch("deaf", &[("NOTIFY_SOCKET", socket.as_str())])?;
    place.await_log("deaf", "watching")?;
    watch.signal(Signal::TERM)?;
    let status = watch.await_end(SOON)?;
    ensure!(status.success(), "{status}");
    Ok(())
}
