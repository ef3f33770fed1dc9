//! What a Hadoop server says about itself on its HTTP port.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

const ANSWER: Duration = Duration::from_secs(2);

/// What a NameNode says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameNodeState {
    /// Whether it is in safe mode.
    pub safe_mode: bool,
    /// DataNodes that can take blocks: registered, not declared dead, and their space is known.
    pub usable_datanodes: usize,
    /// `active` or `standby`.
    pub ha_state: String,
}

/// What the NameNode with this HTTP port says; `None` if it does not answer (yet).
pub fn namenode_state(http_port: u16) -> Option<NameNodeState> {
    let system = bean(http_port, "NameNode", "FSNamesystemState")?;
    let info = bean(http_port, "NameNode", "NameNodeInfo")?;
    let status = bean(http_port, "NameNode", "NameNodeStatus")?;
    // A JSON document within a JSON string. A node that has registered and not yet sent a heartbeat
    // has no capacity, and the NameNode places no block on it.
    let live: Value = serde_json::from_str(info.get("LiveNodes")?.as_str()?).ok()?;
    let usable = |node: &&Value| node.get("capacity").and_then(Value::as_u64) > Some(0);
    Some(NameNodeState {
        safe_mode: system.get("FSState")?.as_str()? == "safeMode",
        usable_datanodes: live.as_object()?.values().filter(usable).count(),
        ha_state: status.get("State")?.as_str()?.to_owned(),
    })
}

/// Whether a NameNode has taken a heartbeat and a block report of the DataNode with this HTTP port
/// since the DataNode started.
pub fn datanode_has_reported(http_port: u16) -> bool {
    let Some(activity) = bean(http_port, "DataNode", "DataNodeActivity*") else {
        return false;
    };
    ["HeartbeatsNumOps", "BlockReportsNumOps"]
        .into_iter()
        .all(|key| activity.get(key).and_then(Value::as_u64) > Some(0))
}

/// How many calls of each name (`GetListing`, `GetFileInfo`, ...) the server with these ports has
/// answered, as of a second ago; `None` if it does not answer.
pub fn rpc_calls(http_port: u16, rpc_port: u16) -> Option<BTreeMap<String, u64>> {
    let name = format!("RpcDetailedActivityForPort{rpc_port}");
    let figures = bean(http_port, "NameNode", &name)?;
    let count = |(key, value): (&String, &Value)| {
        let name = key.strip_suffix("NumOps")?;
        // Newer servers count each call once more in these.
        (!name.starts_with("Overall")).then_some((name.to_owned(), value.as_u64()?))
    };
    Some(figures.as_object()?.iter().filter_map(count).collect())
}

/// How many requests of clients the NameNode with these ports has answered, as of a second ago; `None`
/// if it does not say.
pub fn client_requests(http_port: u16, rpc_port: u16) -> Option<u64> {
    // What DataNodes ask for.
    const OF_SERVERS: [&str; 5] = [
        "SendHeartbeat",
        "BlockReport",
        "BlockReceivedAndDeleted",
        "RegisterDatanode",
        "VersionRequest",
    ];
    let calls = rpc_calls(http_port, rpc_port)?;
    let of_clients = calls
        .iter()
        .filter(|(name, _)| !OF_SERVERS.contains(&name.as_str()));
    Some(of_clients.map(|(_, count)| count).sum())
}

fn bean(http_port: u16, service: &str, name: &str) -> Option<Value> {
    let path = format!("/jmx?qry=Hadoop:service={service},name={name}");
    let answer: Value = serde_json::from_str(&http_get(http_port, &path)?).ok()?;
    answer.get("beans")?.get(0).cloned()
}

/// The body of the answer; `None` on any failure. HTTP/1.0 keeps the answer free of chunks.
fn http_get(port: u16, path: &str) -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, ANSWER).ok()?;
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    stream.set_write_timeout(Some(ANSWER)).ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split(' ').nth(1).filter(|status| *status == "200")?;
    Some(body.to_owned())
}
