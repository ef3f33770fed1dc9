//! A TCP proxy that stands for a bad network: it holds, drops, or loses a request or its answer.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};

use super::hdfs::Hdfs;
use super::ports::Port;
use super::scratch::scratch_dir;
use super::site::write_conf_dir;

/// A name that a request is recognised by may be spread over two reads of at most this many bytes.
const LONGEST_NAME: usize = 64;

/// What becomes of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// It passes.
    Pass,
    /// Connections are accepted, and bytes wait until traffic passes again: a hung server or a
    /// network that lost its route.
    Hold,
    /// Every connection is closed, new ones as soon as they are accepted.
    Drop,
}

/// Which half of a call gets lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The server never sees the call.
    Request,
    /// The server carries the call out, and the client does not learn it.
    Answer,
}

#[derive(Debug)]
struct Plan {
    /// The name of the call.
    call: String,
    /// Calls of that name that pass before.
    passing: usize,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lost(Lost),
    /// It waits, and all traffic with it.
    Held,
}

/// A proxy on a loopback port. It ends when dropped, with all its connections.
#[derive(Debug)]
pub struct CutProxy {
    shared: Arc<Shared>,
    port: Port,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    target: SocketAddr,
}

#[derive(Debug)]
struct State {
    traffic: Traffic,
    ended: bool,
    /// What is to happen to a call.
    plan: Option<Plan>,
    cuts: usize,
    accepted: usize,
    /// Both ends of each open connection.
    open: BTreeMap<usize, [TcpStream; 2]>,
}

impl CutProxy {
    /// Starts a proxy in front of a server on a port of 127.0.0.1.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start(target_port: u16) -> Result<Self> {
        let port = Port::reserve()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number()))
            .context("the proxy cannot listen")?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                traffic: Traffic::Pass,
                ended: false,
                plan: None,
                cuts: 0,
                accepted: 0,
                open: BTreeMap::new(),
            }),
            changed: Condvar::new(),
            target: SocketAddr::from((Ipv4Addr::LOCALHOST, target_port)),
        });
        let acceptor = Arc::clone(&shared);
        thread::spawn(move || acceptor.accept_all(&listener));
        Ok(Self { shared, port })
    }

    /// The port of 127.0.0.1 on which it listens.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// `hdfs://127.0.0.1:<port>`, for a proxy in front of a NameNode.
    pub fn nn_uri(&self) -> String {
        format!("hdfs://127.0.0.1:{}", self.port())
    }

    /// A configuration directory whose default file system is `hdfs` through this proxy. Only the
    /// NameNode is behind it: clients reach DataNodes directly.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn conf_dir(&self, hdfs: &Hdfs) -> Result<PathBuf> {
        let dir = scratch_dir("proxy-conf")?;
        let (mut core, mut site) = hdfs.client_sites();
        core.set("fs.defaultFS", self.nn_uri());
        site.set(
            "dfs.namenode.rpc-address",
            format!("127.0.0.1:{}", self.port()),
        );
        write_conf_dir(&dir, &core, &site)?;
        Ok(dir)
    }

    /// Changes what becomes of the traffic, of open connections too.
    pub fn set(&self, traffic: Traffic) {
        let mut state = self.shared.lock();
        state.traffic = traffic;
        if traffic == Traffic::Drop {
            state.close_all();
        }
        self.shared.changed.notify_all();
    }

    /// Loses the next call of this name (`mkdirs`, `rename2`, `delete`, `create`, `complete`, ...: the
    /// method names of the NameNode's protocol) and closes its connection. Once. Of several calls that
    /// share the connection, the next answer is lost, whichever call it is for.
    pub fn lose_next(&self, call: &str, lost: Lost) {
        self.lose_after(0, call, lost);
    }

    /// As [`CutProxy::lose_next`], once so many calls of this name have passed.
    pub fn lose_after(&self, passing: usize, call: &str, lost: Lost) {
        self.plan(passing, call, Fate::Lost(lost));
    }

    /// Holds all traffic ([`Traffic::Hold`]) from the moment at which the client sends a call of this
    /// name, once so many of them have passed: the call itself arrives when traffic passes again.
    pub fn hold_after(&self, passing: usize, call: &str) {
        self.plan(passing, call, Fate::Held);
    }

    fn plan(&self, passing: usize, call: &str, fate: Fate) {
        self.shared.lock().plan = Some(Plan {
            call: call.to_owned(),
            passing,
            fate,
        });
    }

    /// How many calls were lost or held.
    pub fn cuts(&self) -> usize {
        self.shared.lock().cuts
    }

    /// How many connections were accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.lock().accepted
    }
}

impl Drop for CutProxy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        state.close_all();
        drop(state);
        self.shared.changed.notify_all();
        // Wakes the acceptor; if it is gone already, there is nobody to wake.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port()));
    }
}

impl State {
    fn close_all(&mut self) {
        for ends in std::mem::take(&mut self.open).into_values() {
            close(&ends);
        }
    }

    /// What becomes of these bytes, if the planned call ends among them after the first `old` ones.
    fn take_planned_call(&mut self, bytes: &[u8], old: usize) -> Option<Fate> {
        let plan = self.plan.as_mut()?;
        let call = plan.call.as_bytes();
        let ends = bytes.windows(call.len()).enumerate();
        let found = ends
            .filter(|(start, window)| start + call.len() > old && *window == call)
            .count();
        if found <= plan.passing {
            plan.passing -= found;
            return None;
        }
        let fate = self.plan.take()?.fate;
        self.cuts += 1;
        if fate == Fate::Held {
            self.traffic = Traffic::Hold;
        }
        Some(fate)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept_all(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            let mut state = self.lock();
            if state.ended {
                return;
            }
            state.accepted += 1;
            let number = state.accepted;
            let dropped = state.traffic == Traffic::Drop;
            drop(state);
            // A failed accept or connect is a closed connection to the client.
            if let Ok(client) = client
                && !dropped
                && let Ok(server) = TcpStream::connect(self.target)
            {
                // Only a lack of file descriptors or threads fails here: the connection ends too.
                let _ = self.relay(number, &client, &server);
            }
        }
    }

    fn relay(
        self: &Arc<Self>,
        number: usize,
        client: &TcpStream,
        server: &TcpStream,
    ) -> io::Result<()> {
        for end in [client, server] {
            end.set_nodelay(true)?;
        }
        let ends = [client.try_clone()?, server.try_clone()?];
        self.lock().open.insert(number, ends);
        let answer_is_lost = Arc::new(Mutex::new(false));
        let up = Direction {
            shared: Arc::clone(self),
            connection: number,
            from: client.try_clone()?,
            to: server.try_clone()?,
            answer_is_lost: Arc::clone(&answer_is_lost),
        };
        let down = Direction {
            shared: Arc::clone(self),
            connection: number,
            from: server.try_clone()?,
            to: client.try_clone()?,
            answer_is_lost,
        };
        thread::Builder::new().spawn(move || up.pass_requests())?;
        thread::Builder::new().spawn(move || down.pass_answers())?;
        Ok(())
    }

    /// Returns when traffic may pass; `false` if the connection is to end.
    fn may_pass(&self) -> bool {
        let held = |state: &mut State| state.traffic == Traffic::Hold && !state.ended;
        let state = self
            .changed
            .wait_while(self.lock(), held)
            .unwrap_or_else(PoisonError::into_inner);
        state.traffic == Traffic::Pass && !state.ended
    }
}

/// One direction of one connection.
struct Direction {
    shared: Arc<Shared>,
    connection: usize,
    from: TcpStream,
    to: TcpStream,
    /// Held while a call whose answer is to get lost is passed on: no answer to it slips through.
    answer_is_lost: Arc<Mutex<bool>>,
}

impl Direction {
    fn pass_requests(self) {
        let mut end_of_last = Vec::new();
        self.pass(|bytes| {
            let mut seen = std::mem::take(&mut end_of_last);
            let old = seen.len();
            seen.extend_from_slice(bytes);
            let fate = self.shared.lock().take_planned_call(&seen, old);
            end_of_last = seen.split_off(seen.len().saturating_sub(LONGEST_NAME));
            match fate {
                None => self.write(bytes),
                Some(Fate::Held) => self.shared.may_pass() && self.write(bytes),
                Some(Fate::Lost(Lost::Request)) => false,
                Some(Fate::Lost(Lost::Answer)) => {
                    let mut answer_is_lost = self.lock_answer();
                    *answer_is_lost = true;
                    self.write(bytes)
                }
            }
        });
    }

    fn pass_answers(self) {
        self.pass(|bytes| !*self.lock_answer() && self.write(bytes));
    }

    /// Reads until an end closes, the proxy ends, or `pass_on` says that the connection is to end.
    fn pass(&self, mut pass_on: impl FnMut(&[u8]) -> bool) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length) = (&self.from).read(&mut buffer)
            && length > 0
            && let Some(bytes) = buffer.get(..length)
            && self.shared.may_pass()
            && pass_on(bytes)
        {}
        if let Some(ends) = self.shared.lock().open.remove(&self.connection) {
            close(&ends);
        }
    }

    fn write(&self, bytes: &[u8]) -> bool {
        (&self.to).write_all(bytes).is_ok()
    }

    fn lock_answer(&self) -> MutexGuard<'_, bool> {
        self.answer_is_lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn close(ends: &[TcpStream; 2]) {
    for end in ends {
        // It may be closed already.
        let _ = end.shutdown(Shutdown::Both);
    }
}
