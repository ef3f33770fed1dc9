//! NameNodes that refuse, hang, or are not there; the rest is tested with real ones.

use std::collections::BTreeMap;

use tokio::net::TcpListener;

use super::*;
use crate::hadoop::credentials::Login;
use crate::hadoop::{ConfSource, Environment, HadoopConf};
use crate::storage::hdfs_slot::REBUILD_SPACING;

const SHORT: Duration = Duration::from_millis(300);

fn namenodes(addresses: &[String], call_timeout: Duration) -> NameNodes {
    let ids: Vec<String> = (0..addresses.len()).map(|id| id.to_string()).collect();
    let mut values = BTreeMap::from([("dfs.ha.namenodes.ns".to_owned(), ids.join(","))]);
    for (id, address) in ids.iter().zip(addresses) {
        values.insert(format!("dfs.namenode.rpc-address.ns.{id}"), address.clone());
    }
    let environment = Environment::new([("A", "1")], [("user.name", "ann")]);
    let conf = HadoopConf::load(&ConfSource::Nowhere, &values, environment).unwrap();
    let credentials = conf.credentials(&Login::default()).unwrap();
    let service = conf.name_service("ns").unwrap();
    NameNodes::new(
        Reach::all(&conf, &service, &credentials).unwrap(),
        call_timeout,
    )
}

async fn stat(client: Client) -> Result<(), HdfsError> {
    client.get_file_info("/").await.map(drop)
}

/// Accepts connections and never says a word.
async fn deaf() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// An address where nothing listens.
async fn closed() -> String {
    deaf().await.1
}

#[tokio::test]
async fn refused_connections_are_an_answer_soon() {
    let nodes = namenodes(&[closed().await, closed().await], Duration::from_secs(30));
    let start = Instant::now();
    for sent in [
        nodes.read(Lane::Poll, stat).await.map(drop),
        nodes.change(stat).await.map(drop),
    ] {
        let refusal = sent.unwrap_err();
        assert_eq!(refusal.failure.kind(Asked::Stat), ErrorKind::Unreachable);
        assert!(!refusal.outcome_is_unknown);
        assert_eq!(
            refusal.tried.matches("refused").count(),
            2,
            "{}",
            refusal.tried
        );
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(nodes.epoch(), 0);
}

#[tokio::test]
async fn a_deaf_server_costs_one_time_out_and_nothing_is_sent_to_it() {
    let (_listener, address) = deaf().await;
    let nodes = namenodes(&[address], SHORT);
    let start = Instant::now();
    let read = nodes.read(Lane::Poll, stat).await.unwrap_err();
    assert!(matches!(read.failure, Failure::TimedOut));
    assert!(start.elapsed() >= SHORT && start.elapsed() < SHORT * 10);
    // The change itself was never sent: the connection has to answer a read first.
    let change = nodes.change(stat).await.unwrap_err();
    assert!(!change.outcome_is_unknown);
}

#[tokio::test]
async fn a_deaf_server_leaves_time_for_the_next_one() {
    let (_listener, address) = deaf().await;
    let nodes = namenodes(&[address, closed().await], Duration::from_secs(1));
    let refusal = nodes.read(Lane::Poll, stat).await.unwrap_err();
    assert!(refusal.tried.contains("no answer in time") && refusal.tried.contains("refused"));
    // The one that hung is what a person should look at.
    assert_eq!(refusal.node, 0);
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_replaced_but_not_all_the_time() {
    let (listener, address) = deaf().await;
    let nodes = namenodes(&[address], SHORT);
    let accepted = tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            kept.push(listener.accept().await.unwrap());
            assert!(kept.len() < 10, "a new connection for each call");
        }
    });
    let start = Instant::now();
    while nodes.epoch() == 0 {
        assert!(nodes.read(Lane::Poll, stat).await.is_err());
        assert!(start.elapsed() < REBUILD_SPACING * 4, "it was not replaced");
    }
    assert!(
        start.elapsed() >= REBUILD_SPACING,
        "it was replaced too soon"
    );
    assert!(!accepted.is_finished());
}

#[test]
fn the_active_one_moves_once_for_all_that_saw_the_old_one() {
    let addresses = ["a:1", "b:1", "c:1"].map(str::to_owned);
    let nodes = namenodes(&addresses, SHORT);
    let seen = nodes.active.load(Ordering::SeqCst);
    assert_eq!(nodes.order(seen).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(nodes.is_active(seen, 0));
    assert_eq!(nodes.epoch(), 0);
    // Two calls that saw 0 active find 1; one that saw 0 active gets a late answer of 0.
    assert!(nodes.is_active(seen, 1));
    assert!(nodes.is_active(seen, 1));
    assert_eq!(nodes.epoch(), 1);
    assert!(!nodes.is_active(seen, 0), "an answer from the past counts");
    assert!(!nodes.is_active(seen, 2));
    let seen = nodes.active.load(Ordering::SeqCst);
    assert_eq!(nodes.order(seen).collect::<Vec<_>>(), [1, 2, 0]);
    assert!(nodes.is_active(seen, 2));
    assert_eq!(nodes.epoch(), 2);
}

#[tokio::test]
async fn a_panic_in_the_client_is_an_error_and_costs_the_client() {
    let nodes = namenodes(&[closed().await], Duration::from_secs(30));
    let call = |_: Client| async { panic!("in the client") };
    let refusal = nodes.read::<(), _>(Lane::Poll, call).await.unwrap_err();
    assert!(
        matches!(refusal.failure, Failure::Panicked(_)),
        "{refusal:?}"
    );
    assert_eq!(refusal.failure.kind(Asked::Stat), ErrorKind::Other);
}
