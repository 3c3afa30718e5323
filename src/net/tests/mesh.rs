use super::*;
use crate::net::authority::LIFETIME;
use crate::net::hello::HelloRefusal;
use crate::net::mesh::{CallError, Mesh};
use crate::net::tls::{self, Pin};
use hamesh_raft::command::Lineage;
use std::time::Instant;
use tokio::runtime::Runtime;

const SECOND: Duration = Duration::from_secs(1);

fn start(paper: &Paper, identity: Arc<Identity>, incarnation: u64) -> (Mesh, Arc<Echo>) {
    let echo = Arc::new(Echo::default());
    let listen = paper.members[&identity.record.id].address;
    let mesh = Mesh::bind(listen, identity, incarnation, SLOW, echo.clone()).unwrap();
    mesh.set_members(paper.members.clone());
    (mesh, echo)
}

fn node(paper: &Paper, id: u64) -> (Mesh, Arc<Echo>) {
    start(paper, paper.identities[&NodeId(id)].clone(), 1)
}

/// Lets `intruder` dial node 1, and returns what node 1 refuses it with, and what the intruder hears.
async fn refusal(
    paper: &Paper,
    intruder: Arc<Identity>,
    incarnation: u64,
    expect_known: bool,
) -> (HelloRefusal, String) {
    let id = intruder.record.id;
    let (mesh, echo) = node(paper, 1);
    let mut theirs = paper.members.clone();
    theirs.insert(id, Peer { address: address(), key: intruder.key.hash(), incarnation: 0 });
    let heard = Arc::new(Echo::default());
    let listen = theirs[&id].address;
    let other = Mesh::bind(listen, intruder, incarnation, SLOW, heard.clone()).unwrap();
    other.set_members(theirs);
    let refuses_us = |reach: &BTreeMap<NodeId, Reach>| {
        let words = reach[&NodeId(1)].trouble.as_ref();
        words.is_some_and(|words| words.contains("it refuses us"))
    };
    let reach = until(other.reachable(), "the intruder hears why", refuses_us).await;
    let words = reach[&NodeId(1)].trouble.clone().unwrap();
    assert!(reach[&NodeId(1)].outgoing.is_none());
    let failed = other.call(NodeId(1), Kind::Raft, vec![1], SECOND).await;
    assert!(matches!(failed, Err(CallError::NotConnected { .. })), "{failed:?}");
    other.tell(NodeId(1), Kind::Gossip, vec![1]);
    let refused = mesh.refused()[&id].clone();
    assert!(words.contains(&refused.to_string()), "both sides say the same: {words} / {refused}");
    assert!(echo.untouched() && heard.untouched(), "nothing of it reached a service");
    if expect_known {
        let known = mesh.reachable();
        let shows = |reach: &BTreeMap<NodeId, Reach>| reach[&id].trouble.is_some();
        until(known, "the member's trouble is shown", shows).await;
    }
    mesh.close().await;
    other.close().await;
    (refused, words)
}

#[tokio::test]
async fn three_members_call_and_tell_each_other() {
    let paper = Paper::new(1, 3);
    let nodes = [node(&paper, 1), node(&paper, 2), node(&paper, 3)];
    for (mesh, _) in &nodes {
        let reach = until(mesh.reachable(), "a full mesh", all_linked).await;
        assert_eq!(reach.len(), 2);
        for reach in reach.values() {
            assert_eq!(reach.trouble, None);
            assert!(reach.outgoing.unwrap().clock_off < SECOND);
        }
    }
    for (from, (mesh, _)) in (1..).zip(&nodes) {
        for (to, (_, echo)) in (1..).zip(&nodes).filter(|(to, _)| *to != from) {
            let answer = mesh.call(NodeId(to), Kind::Raft, b"hi".to_vec(), SECOND).await.unwrap();
            assert_eq!(answer, b"hi");
            assert_eq!(echo.calls.lock().unwrap().last(), Some(&(NodeId(from), Kind::Raft, 2)));
            mesh.tell(NodeId(to), Kind::Gossip, vec![9; 60_000]);
        }
    }
    for (_, echo) in &nodes {
        for _ in 0..100 {
            if echo.tells.lock().unwrap().len() == 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(echo.tells.lock().unwrap().len(), 2);
    }
    let big = vec![7; 3 << 20];
    assert_eq!(nodes[0].0.call(NodeId(2), Kind::Snapshot, big.clone(), SECOND * 5).await.unwrap(), big);
    for (mesh, _) in nodes {
        mesh.close().await;
    }
}

#[tokio::test]
async fn a_call_fails_with_the_reason() {
    let paper = Paper::new(2, 3);
    let ((one, _), (two, echo)) = (node(&paper, 1), node(&paper, 2));
    let second = NodeId(2);
    until(one.reachable(), "two linked", |reach| reach[&second].outgoing.is_some()).await;
    let call = |to, kind, body: &[u8], deadline| one.call(to, kind, body.to_vec(), deadline);
    let remote = call(second, Kind::Ask, b"fail", SECOND).await.unwrap_err();
    assert!(matches!(&remote, CallError::Remote(why) if why == "no such thing"), "{remote}");
    let late = call(second, Kind::Ask, b"sleep", SECOND / 10).await.unwrap_err();
    assert!(matches!(late, CallError::Deadline { .. }), "{late}");
    let long = call(second, Kind::Gossip, &vec![0; Kind::Gossip.limit() + 1], SECOND).await.unwrap_err();
    assert!(matches!(long, CallError::TooLong { .. }), "{long}");
    assert_eq!(echo.calls.lock().unwrap().len(), 2);
    until(one.reachable(), "a reason", |reach| reach[&NodeId(3)].trouble.is_some()).await;
    let absent = call(NodeId(3), Kind::Ask, b"", SECOND).await.unwrap_err().to_string();
    assert!(absent.starts_with("n3 is not connected (127."), "{absent}");
    let stranger = call(NodeId(9), Kind::Ask, b"", SECOND).await.unwrap_err().to_string();
    assert_eq!(stranger, "n9 is not connected");
    let waiting = call(second, Kind::Ask, b"sleep", SECOND * 4);
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        two.close().await;
    };
    let (lost, ()) = tokio::join!(waiting, stopping);
    let lost = lost.unwrap_err().to_string();
    assert!(lost.contains("this node is stopping"), "{lost}");
    one.close().await;
}

#[tokio::test]
async fn another_cluster_with_the_same_names_is_refused() {
    let (paper, mut other) = (Paper::new(3, 2), Paper::new(3, 2));
    other.members = paper.members.clone();
    let (mesh, echo) = node(&paper, 1);
    let (stranger, heard) = node(&other, 2);
    until(stranger.reachable(), "TLS ends it", |reach| {
        reach[&NodeId(1)].trouble.as_ref().is_some_and(|why| why.contains("certificate"))
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(echo.untouched() && heard.untouched());
    assert!(stranger.reachable().borrow()[&NodeId(1)].outgoing.is_none());
    assert!(mesh.reachable().borrow()[&NodeId(2)].incoming.is_none());
    mesh.close().await;
    stranger.close().await;
}

#[tokio::test]
async fn another_lineage_is_refused_and_both_say_why() {
    let paper = Paper::new(4, 2);
    let own = &paper.identities[&NodeId(2)];
    let mut record = own.record.clone();
    record.lineage = Lineage { counter: 2, id: 3 };
    let key = Key::from_pem(&own.key.to_pem()).unwrap();
    let (certificate, ca) = (own.certificate.get(), own.ca.clone());
    let (reason, words) = refusal(
        &paper,
        Arc::new(Identity { record, key, certificate: certificate.into(), ca, authority: None }),
        1,
        true,
    )
    .await;
    let there = Lineage { counter: 2, id: 3 };
    assert_eq!(reason, HelloRefusal::Lineage { refuser: paper.lineage, refused: there });
    assert!(words.contains("must join anew"), "{words}");
}

#[tokio::test]
async fn an_old_copy_of_a_members_disk_is_refused() {
    let mut paper = Paper::new(5, 2);
    paper.members.get_mut(&NodeId(2)).unwrap().incarnation = 7;
    let (reason, _) = refusal(&paper, paper.identities[&NodeId(2)].clone(), 6, true).await;
    assert_eq!(reason, HelloRefusal::Stale { node: NodeId(2), came: 6, known: 7 });
}

#[tokio::test]
async fn a_certificate_of_the_cluster_is_not_yet_membership() {
    let paper = Paper::new(6, 2);
    let (reason, _) = refusal(&paper, paper.identity(NodeId(9)), 1, false).await;
    assert_eq!(reason, HelloRefusal::Unknown(NodeId(9)));
    let paper = Paper::new(6, 2);
    let (reason, _) = refusal(&paper, paper.identity(NodeId(2)), 1, true).await;
    assert_eq!(reason, HelloRefusal::Key(NodeId(2)), "the right name with another key");
}

#[tokio::test]
async fn a_removed_member_is_cut_off_at_once() {
    let mut paper = Paper::new(7, 2);
    let ((one, _), (two, _)) = (node(&paper, 1), node(&paper, 2));
    until(one.reachable(), "linked", all_linked).await;
    until(two.reachable(), "linked", all_linked).await;
    paper.members.remove(&NodeId(2));
    one.set_members(paper.members.clone());
    assert!(one.reachable().borrow().is_empty());
    let cut = |reach: &BTreeMap<NodeId, Reach>| reach[&NodeId(1)].outgoing.is_none();
    until(two.reachable(), "cut off", cut).await;
    let said = |reach: &BTreeMap<NodeId, Reach>| {
        reach[&NodeId(1)].trouble.as_ref().is_some_and(|why| why.contains("n2 is not a member"))
    };
    until(two.reachable(), "told so", said).await;
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn a_certificate_that_ended_is_refused_until_another_is_taken_up() {
    let paper = Paper::new(18, 2);
    let late = paper.identities[&NodeId(2)].clone();
    let sign = |now| paper.authority.sign_own(&late.key, NodeId(2), now).unwrap();
    let dir = tempfile::tempdir().unwrap();
    late.renew(dir.path(), sign(wall_now() - LIFETIME - SECOND * 3600)).unwrap();
    let ((one, echo), (two, _)) = (node(&paper, 1), start(&paper, late.clone(), 1));
    let says = |node: NodeId| {
        move |reach: &BTreeMap<NodeId, Reach>| reach[&node].trouble.as_ref().is_some_and(|why| why.contains("expired"))
    };
    until(two.reachable(), "the late one hears why", says(NodeId(1))).await;
    until(one.reachable(), "the other says why", says(NodeId(2))).await;
    assert!(echo.untouched());

    let other = paper.identity(NodeId(2)).certificate.get();
    assert!(late.renew(dir.path(), other).is_err(), "the certificate of another key");
    late.renew(dir.path(), sign(wall_now())).unwrap();
    until(one.reachable(), "linked", all_linked).await;
    until(two.reachable(), "linked", all_linked).await;
    assert!(std::fs::read_to_string(dir.path().join("node.pem")).is_ok_and(|pem| pem.contains("CERTIFICATE")));
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn a_hello_of_another_layout_is_refused_in_words() {
    let paper = Paper::new(19, 2);
    let (mesh, echo) = node(&paper, 1);
    let member = by_hand(&paper).await;
    let (mut send, _recv) = member.open_bi().await.unwrap();
    crate::net::frame::write(&mut send, 1, &[hamesh_raft::codec::VERSION + 1, 0, 0]).await.unwrap();
    let words = crate::net::hello::describe(&timeout(SECOND * 5, member.closed()).await.unwrap());
    let expected = format!("layout version {}, this hamesh reads", hamesh_raft::codec::VERSION + 1);
    assert!(words.contains(&expected), "{words}");
    let says =
        |reach: &BTreeMap<NodeId, Reach>| reach[&NodeId(2)].trouble.as_ref().is_some_and(|why| why.contains(&expected));
    until(mesh.reachable(), "the member's trouble is shown", says).await;
    assert!(echo.untouched());
    mesh.close().await;
}

/// Node 2, with nothing but a connection to node 1.
async fn by_hand(paper: &Paper) -> quinn::Connection {
    let transport = Arc::new(tls::transport(&SLOW).unwrap());
    let client = tls::client(&paper.identities[&NodeId(2)], tls::MEMBER, transport).unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let name = crate::net::authority::node_name(NodeId(1), paper.cluster);
    endpoint.connect_with(client, paper.address(1), &name).unwrap().await.unwrap()
}

#[tokio::test]
async fn without_a_certificate_only_a_join_request_is_heard() {
    let paper = Paper::new(8, 1);
    let (mesh, echo) = node(&paper, 1);
    let transport = || Arc::new(tls::transport(&SLOW).unwrap());
    let pin = Pin::Authority(crate::net::authority::key_hash(paper.authority.certificate()).unwrap());
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    for alpn in [tls::MEMBER, tls::JOIN] {
        let client = tls::pinned_client(pin, alpn, transport()).unwrap();
        let dialed = endpoint.connect_with(client, paper.address(1), "any.hamesh.internal").unwrap().await.unwrap();
        let frame = |kind: u8, body: &[u8]| [&[kind, 0, 0, 0, u8::try_from(body.len()).unwrap()], body].concat();
        // A call, on a connection that is not a member's.
        let (mut send, mut recv) = dialed.open_bi().await.unwrap();
        send.write_all(&frame(Kind::Raft.byte(), b"vote for me")).await.ok();
        send.finish().ok();
        assert!(recv.read_to_end(64).await.is_err());
        let closed = timeout(SECOND, dialed.closed()).await.unwrap().to_string();
        assert!(closed.contains("certificate") || closed.contains("kind 16"), "{closed}");
        assert!(echo.untouched(), "{}", String::from_utf8_lossy(alpn));
    }
    let client = tls::pinned_client(pin, tls::JOIN, transport()).unwrap();
    let dialed = endpoint.connect_with(client, paper.address(1), "any.hamesh.internal").unwrap().await.unwrap();
    let (mut send, mut recv) = dialed.open_bi().await.unwrap();
    send.write_all(&[32, 0, 0, 0, 2, b'm', b'e']).await.unwrap();
    assert_eq!(recv.read_to_end(64).await.unwrap(), [&[32, 0, 0, 0, 6], b"answer".as_slice()].concat());
    assert_eq!(*echo.joins.lock().unwrap(), [b"me".to_vec()]);
    assert!(echo.calls.lock().unwrap().is_empty());
    mesh.close().await;
}

#[tokio::test]
async fn an_oversized_or_unknown_frame_is_refused_before_it_is_read() {
    let paper = Paper::new(9, 2);
    let (mesh, echo) = node(&paper, 1);
    // Node 2, by hand: it says hello and then misbehaves.
    let member = by_hand(&paper).await;
    let hello = crate::net::hello::Hello {
        protocol_min: 1,
        protocol_max: 1,
        cluster: paper.cluster,
        lineage: paper.lineage,
        node: NodeId(2),
        incarnation: 1,
        wall: wall_now(),
    };
    crate::net::hello::introduce(&member, &hello, |_| Ok(())).await.unwrap();
    for (head, reason) in [
        ([Kind::Gossip.byte(), 0, 1, 0, 1], "a message of 65537 bytes, the limit is 65536"),
        ([Kind::Raft.byte(), 255, 255, 255, 255], "a message of 4294967295 bytes, the limit is 4194304"),
        ([99, 0, 0, 0, 1], "unexpected message kind 99"),
    ] {
        let (mut send, mut recv) = member.open_bi().await.unwrap();
        send.write_all(&head).await.unwrap();
        let answer = timeout(SECOND, recv.read_to_end(200)).await.unwrap().unwrap();
        assert_eq!(answer[0], 1, "failed");
        assert_eq!(String::from_utf8_lossy(&answer[5..]), reason);
        assert!(send.stopped().await.unwrap().is_some(), "and its stream is stopped");
    }
    let mut tell = member.open_uni().await.unwrap();
    tell.write_all(&[Kind::Gossip.byte(), 0, 1, 0, 1]).await.unwrap();
    assert!(tell.stopped().await.unwrap().is_some());
    assert!(echo.untouched());
    assert!(member.close_reason().is_none(), "one bad message does not end a member's connection");
    mesh.close().await;
}

#[test]
fn a_killed_and_restarted_peer_is_back_within_a_second() {
    let paper = Paper::new(10, 2);
    let patient = Timing { idle: Duration::from_secs(30), attempt: Duration::from_secs(2), ..Timing::MESH };
    let (here, there) = (Runtime::new().unwrap(), Runtime::new().unwrap());
    let bind = |id: u64, incarnation| {
        let echo = Arc::new(Echo::default());
        let identity = paper.identities[&NodeId(id)].clone();
        let mesh = Mesh::bind(paper.address(id), identity, incarnation, patient, echo).unwrap();
        mesh.set_members(paper.members.clone());
        mesh
    };
    let one = here.block_on(async { bind(1, 1) });
    let two = there.block_on(async { bind(2, 1) });
    here.block_on(until(one.reachable(), "linked", all_linked));
    // As kill -9 does: nothing is said. The idle timeout of 30 s must not be what notices.
    drop(two);
    there.shutdown_timeout(Duration::from_secs(2));
    let again = Runtime::new().unwrap();
    let restarted = Instant::now();
    let two = again.block_on(async { bind(2, 2) });
    let answered = here.block_on(async {
        loop {
            match one.call(NodeId(2), Kind::Raft, b"hi".to_vec(), Duration::from_millis(100)).await {
                Ok(_) => return restarted.elapsed(),
                Err(error) => assert!(restarted.elapsed() < SECOND * 5, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    println!("first answer {answered:?} after the restart");
    assert!(answered < SECOND, "{answered:?}");
    let new = |reach: &BTreeMap<NodeId, Reach>| reach[&NodeId(2)].outgoing.is_some_and(|link| link.incarnation == 2);
    here.block_on(until(one.reachable(), "the second incarnation", new));
    again.block_on(two.close());
    here.block_on(one.close());
}

#[test]
fn a_restarted_peer_resets_the_old_connection_even_if_it_does_not_dial() {
    let paper = Paper::new(11, 2);
    let patient = Timing { idle: Duration::from_secs(30), attempt: Duration::from_secs(2), ..Timing::MESH };
    let (here, there) = (Runtime::new().unwrap(), Runtime::new().unwrap());
    let bind = |id: u64, incarnation, members| {
        let identity = paper.identities[&NodeId(id)].clone();
        let mesh = Mesh::bind(paper.address(id), identity, incarnation, patient, Arc::new(Echo::default())).unwrap();
        mesh.set_members(members);
        mesh
    };
    let one = here.block_on(async { bind(1, 1, paper.members.clone()) });
    let two = there.block_on(async { bind(2, 1, paper.members.clone()) });
    here.block_on(until(one.reachable(), "linked", all_linked));
    drop(two);
    there.shutdown_timeout(Duration::from_secs(2));
    let again = Runtime::new().unwrap();
    let restarted = Instant::now();
    let two = again.block_on(async { bind(2, 2, BTreeMap::new()) });
    let reset =
        |reach: &BTreeMap<NodeId, Reach>| reach[&NodeId(2)].outgoing.is_none() && reach[&NodeId(2)].trouble.is_some();
    let reach = here.block_on(until(one.reachable(), "reset", reset));
    let waited = restarted.elapsed();
    println!("reset {waited:?} after the restart: {:?}", reach[&NodeId(2)].trouble);
    assert!(waited < SECOND, "{waited:?}");
    again.block_on(two.close());
    here.block_on(one.close());
}

#[tokio::test]
async fn a_name_outside_the_cas_domain_is_refused_by_tls() {
    let paper = Paper::new(12, 2);
    let (mesh, echo) = node(&paper, 1);
    let ca = paper.authority.certificate().clone();
    let elsewhere = Authority::restore(ClusterId(99 << 64), ca.clone(), &paper.authority.key_pem()).unwrap();
    let own = &paper.identities[&NodeId(2)];
    let key = Key::from_pem(&own.key.to_pem()).unwrap();
    let certificate = elsewhere.sign_own(&key, NodeId(2), wall_now()).unwrap();
    let identity = Identity { record: own.record.clone(), key, certificate: certificate.into(), ca, authority: None };
    let (other, _) = start(&paper, Arc::new(identity), 1);
    let refused = |reach: &BTreeMap<NodeId, Reach>| {
        reach[&NodeId(1)].trouble.as_ref().is_some_and(|why| why.contains("certificate"))
    };
    let reach = until(other.reachable(), "refused", refused).await;
    println!("{:?}", reach[&NodeId(1)].trouble);
    assert!(echo.untouched() && mesh.reachable().borrow()[&NodeId(2)].incoming.is_none());
    mesh.close().await;
    other.close().await;
}

#[tokio::test]
async fn a_member_that_moves_is_found_at_its_new_address() {
    let mut paper = Paper::new(13, 2);
    let ((one, _), (two, _)) = (node(&paper, 1), node(&paper, 2));
    until(one.reachable(), "linked", all_linked).await;
    two.close().await;
    paper.members.get_mut(&NodeId(2)).unwrap().address = address();
    let (moved, _) = start(&paper, paper.identities[&NodeId(2)].clone(), 2);
    one.set_members(paper.members.clone());
    until(one.reachable(), "linked again", |reach| {
        all_linked(reach) && reach[&NodeId(2)].outgoing.is_some_and(|link| link.incarnation == 2)
    })
    .await;
    assert_eq!(one.call(NodeId(2), Kind::Ask, b"hi".to_vec(), SECOND).await.unwrap(), b"hi");
    one.close().await;
    moved.close().await;
}

#[tokio::test]
async fn a_stranger_that_says_nothing_is_sent_away() {
    let paper = Paper::new(14, 1);
    let (mesh, echo) = node(&paper, 1);
    let pin = Pin::Authority(crate::net::authority::key_hash(paper.authority.certificate()).unwrap());
    let client = tls::pinned_client(pin, tls::JOIN, Arc::new(tls::transport(&SLOW).unwrap())).unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let dialed = endpoint.connect_with(client, paper.address(1), "any.hamesh.internal").unwrap().await.unwrap();
    let closed = timeout(SECOND * 4, dialed.closed()).await.unwrap().to_string();
    assert!(closed.contains("no join request in time"), "{closed}");
    assert!(echo.untouched());
    mesh.close().await;
}

#[tokio::test]
async fn members_get_in_while_others_hold_handshakes_open() {
    let paper = Paper::new(15, 3);
    let (mesh, echo) = node(&paper, 1);
    // Connected and silent: 64 of them, from an address that is no member's.
    let client = tls::client(&paper.identities[&NodeId(2)], tls::MEMBER, Arc::new(tls::transport(&SLOW).unwrap()));
    let client = client.unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let name = crate::net::authority::node_name(NodeId(1), paper.cluster);
    let dial = || endpoint.connect_with(client.clone(), paper.address(1), &name).unwrap();
    let holding: Vec<_> = (0..64).map(|_| tokio::spawn(dial())).collect();
    tokio::time::sleep(SECOND / 2).await;
    let held = holding.iter().filter(|dial| dial.is_finished()).count();
    println!("{held} handshakes are held open");
    assert!(held <= 32, "the other half is kept for members");
    let (member, _) = node(&paper, 3);
    let begin = Instant::now();
    until(member.reachable(), "in", |reach| reach[&NodeId(1)].outgoing.is_some()).await;
    println!("in after {:?}", begin.elapsed());
    assert!(begin.elapsed() < SECOND);
    assert!(echo.untouched());
    mesh.close().await;
    member.close().await;
}

#[tokio::test]
async fn gossip_runs_over_the_mesh() {
    use hamesh_gossip::Gossip;
    use std::sync::OnceLock;

    struct Ear(OnceLock<Gossip>);
    impl Service for Ear {
        fn serve(&self, _: NodeId, _: Kind, _: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> {
            Box::pin(std::future::ready(Err("not here".into())))
        }
        fn told(&self, from: NodeId, kind: Kind, body: Vec<u8>) {
            assert_eq!(kind, Kind::Gossip);
            if let Some(gossip) = self.0.get() {
                gossip.hear(from, body);
            }
        }
        fn join(&self, _: SocketAddr, _: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
            Box::pin(std::future::ready(Vec::new()))
        }
    }

    let paper = Paper::new(16, 3);
    let mut nodes = Vec::new();
    for (id, identity) in &paper.identities {
        let ear = Arc::new(Ear(OnceLock::new()));
        let mesh = Mesh::bind(paper.members[id].address, identity.clone(), 1, SLOW, ear.clone()).unwrap();
        mesh.set_members(paper.members.clone());
        let members = paper.members.keys().copied().collect();
        let wire = Arc::new(mesh.clone());
        let gossip = Gossip::start(*id, 1, "edge", members, wire, Duration::from_millis(100)).await.unwrap();
        gossip.set_fact("h/1", id.to_string());
        assert!(ear.0.set(gossip).is_ok());
        nodes.push((mesh, ear));
    }
    for (mesh, ear) in &nodes {
        let mut facts = ear.0.get().unwrap().facts();
        let all = facts.wait_for(|facts| {
            paper.members.keys().all(|id| {
                facts.get(id).is_some_and(|facts| facts.alive && facts.values.get("h/1") == Some(&id.to_string()))
            })
        });
        assert!(timeout(SECOND * 5, all).await.is_ok());
        mesh.close().await;
    }
}
