//! What is fuzzed: each reader with inputs to begin with, and how it answers.

use hamesh::bfd::packet as bfd;
use hamesh::config;
use hamesh::net::hello::Hello;
use hamesh::net::invitation::JoinString;
use hamesh::net::join::{JoinAnswer, JoinRequest};
use hamesh::net::{arp, ndp};
use hamesh::vrrp::advert::{Advert, Discard, Format, Header};
use hamesh::vrrp::checksum::{self, Form};
use hamesh::vrrp::hmac;
use hamesh::vrrp::{Auth, Password, TTL, Version, group};
use hamesh_fencing::message::{Ask, Message, Renew};
use hamesh_fencing::record::MayAct;
use hamesh_gossip::observation;
use hamesh_raft::codec;
use hamesh_raft::command::{Command, Family, GateId, Sid, Token};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use tempfile::TempDir;

/// Takes an input and gives the words that it answers with, one for each thing it says.
pub type Reader = dyn Fn(&[u8]) -> Vec<String>;

/// One reader.
pub struct Target {
    pub name: &'static str,
    pub seeds: Vec<Vec<u8>>,
    /// What its inputs are made of, put in at random.
    pub words: &'static [&'static str],
    /// Puts a checksum right.
    pub mend: fn(&mut Vec<u8>),
    pub run: Box<Reader>,
}

fn target(name: &'static str, seeds: Vec<Vec<u8>>, run: impl Fn(&[u8]) -> Vec<String> + 'static) -> Target {
    Target { name, seeds, words: &[], mend: |_| {}, run: Box::new(run) }
}

/// Readers with a fault that only a good search finds.
pub fn planted() -> [Target; 2] {
    let advert = Target {
        mend: |message| mend(message, Family::V4),
        ..target("planted advert", adverts(Family::V4), |message| {
            let judged = judge(&format(Version::V3, Family::V4, Auth::None), message);
            assert!(!matches!(judged, Ok(Advert { priority: 200, .. })), "planted");
            judged.map_or_else(word, |_| Vec::new())
        })
    };
    let read = configuration();
    let text = Target {
        words: &["\nnopreempt\n", "\n", "{", "}", "255"],
        ..target("planted text", vec![KEEPALIVED.into()], move |text| {
            let answers = read(text);
            assert!(!answers.iter().any(|answer| answer.contains("nopreempt = true")), "planted");
            answers
        })
    };
    [advert, text]
}

/// Every reader.
pub fn all() -> Vec<Target> {
    let advert = |name, version, family, auth| Target {
        mend: if family == Family::V4 {
            |message| mend(message, Family::V4)
        } else {
            |message| mend(message, Family::V6)
        },
        ..target(name, adverts(family), move |message| match judge(&format(version, family, auth), message) {
            Ok(advert) => {
                vec![format!("valid, {} addresses, {:?}", "x".repeat(advert.addresses.len()), advert.checksum)]
            }
            Err(why) => word(why),
        })
    };
    let v4 = Ipv4Addr::new(10, 0, 0, 1);
    let v6 = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let frames = vec![
        arp::gratuitous([2, 0, 0, 0, 0, 1], v4).to_vec(),
        arp::probe([2, 0, 0, 0, 0, 1], v4, v4).to_vec(),
        ndp::announcement([2, 0, 0, 0, 0, 1], v6, true).to_vec(),
        ndp::probe([2, 0, 0, 0, 0, 1], v6, v6).to_vec(),
    ];
    let record = MayAct {
        sid: Sid(7),
        ttl: Duration::from_secs(1),
        promise: Duration::from_millis(1100),
        gate: GateId(9),
        pairs: BTreeSet::from([("web".to_owned(), Token { lineage: 1, index: 70_000 })]),
    };
    let messages = vec![
        codec::encode(&Message::Ask(Ask { sid: Sid(3), round: 1 })),
        codec::encode(&Message::Renew(Renew { sid: Sid(3), seq: 900, process: u64::MAX, acted: 3 })),
    ];
    let read = configuration();
    vec![
        advert("advert v2", Version::V2, Family::V4, Auth::None),
        advert("advert v2 pass", Version::V2, Family::V4, Auth::Pass(Password::cut("secret"))),
        advert("advert v3", Version::V3, Family::V4, Auth::None),
        advert("advert v3 IPv6", Version::V3, Family::V6, Auth::None),
        trailer("trailer", Family::V4),
        trailer("trailer IPv6", Family::V6),
        target("bfd", vec![bfd(bfd::State::Down, 0), bfd(bfd::State::Up, 7)], |packet| {
            match bfd::Packet::parse(packet) {
                Ok(packet) => vec![format!("{:?} {}", packet.state, packet.poll)],
                Err(why) => vec![format!("{why:?}")],
            }
        }),
        target("arp and ndp", frames, |frame| {
            vec![format!("{} {}", arp::parse(frame).is_some(), ndp::parse(frame).is_some())]
        }),
        target("lease datagram", messages, decoded::<Message>),
        target("may-act record", vec![codec::encode(&record)], decoded::<MayAct>),
        target("command", any_layout(), decoded::<Command>),
        target("hello", any_layout(), decoded::<Hello>),
        target("join request", any_layout(), decoded::<JoinRequest>),
        target("join answer", any_layout(), decoded::<JoinAnswer>),
        Target {
            words: &["hm1.", "director", "witness", ".", "AAAA", "-_", "hm2"],
            ..target("join string", vec![join_string()], |text| {
                vec![
                    JoinString::parse(&String::from_utf8_lossy(text))
                        .map_or_else(|error| kind(&error), |_| "valid".into()),
                ]
            })
        },
        target("observations", vec![b"0000000000000001u0000000000000002d".to_vec()], |text| {
            // Everything lies in the first bucket; weights are of what is up.
            let fact = String::from_utf8_lossy(text).into_owned();
            let seen = "0000000000000001u".to_owned();
            let facts = [("seen/00", fact.clone()), ("seen/01", seen), ("weight/00", fact.clone()), ("why/00", fact)];
            let facts = facts.map(|(key, fact)| (key.to_owned(), fact)).into();
            let (seen, why) = (observation::decode(&facts), observation::decode_reasons(&facts));
            let again = observation::decode(&observation::encode(&seen));
            assert_eq!(again, seen, "what is passed on is what was heard");
            vec![format!("{} seen, {} reasons", "x".repeat(seen.len()), "x".repeat(why.len()))]
        }),
        Target {
            words: &["0000000000000001", "=7", "+5", "-6", "%40;", "%100;"],
            ..target("weights", vec![b"0000000000000001=7%100;0000000000000001-6%40;".to_vec()], |text| {
                let fact = String::from_utf8_lossy(text).into_owned();
                let facts = [("seen/00", "0000000000000001u".to_owned()), ("weight/00", fact)];
                let facts = facts.map(|(key, fact)| (key.to_owned(), fact)).into();
                let weights = observation::decode(&facts);
                assert_eq!(observation::decode(&observation::encode(&weights)), weights);
                weights.values().map(|observation| format!("{:?}", observation.weight)).take(1).collect()
            })
        },
        Target {
            words: WORDS,
            ..target(
                "configuration",
                vec![
                    KEEPALIVED.into(),
                    LANGUAGE.into(),
                    include_bytes!("../../deploy/cluster.toml").to_vec(),
                    include_bytes!("../../deploy/hamesh.toml").to_vec(),
                ],
                read,
            )
        },
    ]
}

/// What is behind a digest is reached with the key alone: the seeds are signed.
fn trailer(name: &'static str, family: Family) -> Target {
    let settings = |mode| {
        let keys = BTreeMap::from([(1, hmac::Key(vec![7; 32]))]);
        hmac::Settings { keys, active: 1, mode, window: None }
    };
    let (source, destination) = (source(family), group(family));
    let (clock, header) = (hmac::Clock::at(Duration::from_secs(9)), Header { source, destination, ttl: TTL });
    let sign = |advert| {
        let mut trailers = hmac::Trailers::new(settings(hmac::Mode::Enforce));
        trailers.sign(clock, advert, source, destination)
    };
    let seeds = adverts(family).into_iter().flat_map(|advert| [sign(advert.clone()), advert]).collect();
    target(name, seeds, move |message| {
        let judged = [hmac::Mode::Enforce, hmac::Mode::Permissive].map(|mode| {
            let mut trailers = hmac::Trailers::new(settings(mode));
            trailers
                .open(clock, message, &header)
                .map_or_else(|why| why.name().to_owned(), |advert| format!("{} bytes", advert.len()))
        });
        judged.into()
    })
}

fn bfd(state: bfd::State, yours: u32) -> Vec<u8> {
    let interval = Duration::from_millis(300);
    let (diagnostic, poll, is_final, demand) = (bfd::Diagnostic::NONE, yours != 0, false, false);
    let (min_tx, min_rx) = (interval, interval);
    bfd::Packet { diagnostic, state, poll, is_final, demand, multiplier: 3, mine: 9, yours, min_tx, min_rx }
        .to_bytes()
        .to_vec()
}

const SOURCE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2))];

fn source(family: Family) -> IpAddr {
    SOURCE[usize::from(family == Family::V6)]
}

fn format(version: Version, family: Family, auth: Auth) -> Format {
    let addresses = match family {
        Family::V4 => vec![Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 0, 0, 9).into()],
        Family::V6 => vec![Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into()],
    };
    let (interval, checksum) = (Duration::from_secs(1), Form::Pseudo);
    Format { family, version, vrid: 51, interval, auth, checksum, addresses, unicast: None }
}

fn judge(format: &Format, message: &[u8]) -> Result<Advert, Discard> {
    let (source, destination) = (source(format.family), group(format.family));
    format.decode(message, &Header { source, destination, ttl: TTL })
}

fn word(why: Discard) -> Vec<String> {
    vec![why.name().to_owned()]
}

fn adverts(family: Family) -> Vec<Vec<u8>> {
    let from = |version, auth| format(version, family, auth).encode(100, source(family), group(family));
    match family {
        Family::V4 => vec![
            from(Version::V2, Auth::None),
            from(Version::V2, Auth::Pass(Password::cut("secret"))),
            from(Version::V3, Auth::None),
        ],
        Family::V6 => vec![from(Version::V3, Auth::None)],
    }
}

fn mend(message: &mut [u8], family: Family) {
    if message.len() < 8 {
        return;
    }
    message[6..8].fill(0);
    // Version 2 sums all but its password.
    let v2 = message[0] >> 4 == 2;
    let form = if v2 { Form::Plain } else { Form::Pseudo };
    let sum = checksum::of(form, message, source(family), group(family));
    message[6..8].copy_from_slice(&sum.to_be_bytes());
}

fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Vec<String> {
    vec![codec::decode::<T>(bytes, 1 << 16).map_or_else(|error| error.to_string(), |_| "valid".to_owned())]
}

/// Something for each variant of whatever type.
fn any_layout() -> Vec<Vec<u8>> {
    (0..24).flat_map(|kind| [0, 1, 4].map(|fill| [vec![codec::VERSION, kind], vec![fill; 60]].concat())).collect()
}

/// The name of an error's variant: its words hold what was read.
fn kind(error: &impl std::fmt::Debug) -> String {
    format!("{error:?}").chars().take_while(|c| c.is_alphanumeric()).collect()
}

fn join_string() -> Vec<u8> {
    let pin = std::array::from_fn(|at| u8::try_from(at).unwrap_or(0));
    let addresses = vec![([10, 0, 0, 1], 7112).into()];
    JoinString::invite(hamesh_raft::command::Role::Director, addresses, pin)
        .map(|word| word.encode().into_bytes())
        .unwrap_or_default()
}

/// Reads text as each kind of file, from a file, as the command line does.
fn configuration() -> impl Fn(&[u8]) -> Vec<String> {
    let directory = TempDir::new().expect("a directory for a file");
    move |text| {
        let path = directory.path().join("x.conf");
        std::fs::write(&path, String::from_utf8_lossy(text).as_bytes()).expect("a file can be written");
        let mut answers: Vec<String> = match config::check(&path, None) {
            Ok(warnings) => warnings.into_iter().map(|warning| warning.message).collect(),
            // With all of the rendering: it has spans to get wrong.
            Err(errors) => errors.iter().map(|error| (error.message.clone(), error.to_string()).0).collect(),
        };
        if let Ok(converted) = config::convert(&path, Some("lb1"), None) {
            answers.extend(converted.lines().map(str::to_owned));
        }
        answers
    }
}

const KEEPALIVED: &str = "global_defs {\n router_id x\n vrrp_version 3\n}\nvrrp_instance VI_1 {\n state BACKUP\n interface eth0\n \
    virtual_router_id 51\n priority 150\n advert_int 1\n virtual_ipaddress {\n 10.0.0.1/24 dev eth0\n }\n}\n\
    virtual_server 10.0.0.1 80 {\n protocol TCP\n delay_loop 6\n real_server 10.0.1.1 80 {\n weight 1\n HTTP_GET {\n \
    url {\n path /\n status_code 200\n }\n }\n }\n}\n";

const LANGUAGE: &str = "$VI= \\\n vrrp_instance v${N} { \\\n interface eth0 \\\n virtual_router_id $N \\\n @^me priority 1 \\\n \
    virtual_ipaddress { 10.0.${N}.1 } \\\n }\n~SEQ(N,1,3) $VI\n~LST({A,B},{1,2},{3,4}) include none_${A}_${B}{a,b}*\n";

const WORDS: &[&str] = &[
    "\n",
    " ",
    "{",
    "}",
    "\n}\n",
    " {\n",
    "#",
    "!",
    "\"",
    "'",
    "\\",
    "\\\n",
    "$",
    "${",
    "@",
    "@^",
    "~SEQ(",
    "~SEQx(",
    "~LST(",
    ")",
    ",",
    "=",
    "$A=",
    "${A}",
    "$A\n",
    "$A= \\\n",
    "${_ENV HOME}",
    "${_PWD}",
    "${_HASH}",
    "include x",
    "includea {x,*}",
    "include_check +match",
    "\nnopreempt\n",
    "\nstate MASTER\n",
    "auth_hmac {\nkey 1 hex:00\nactive_key 1\n}\n",
    "authentication {\nauth_type PASS\nauth_pass x\n}\n",
    "255",
    "0",
    "-1",
    "0.01",
    "99999999999999999999",
    "fe80::1/64",
    "10.0.0.1",
    "[",
    "]",
    "[vip.a]\n",
    "[service.a]\n",
    "[[",
    "\"\"\"",
    "[node]\n",
    "1s",
    "é",
    "\u{0}",
    "TCP_CHECK {\n}\n",
    "sorry_server 10.0.0.9 80\n",
    "lvs_method TUN type gue port 1\n",
    "persistence_timeout",
    "quorum",
    "hysteresis",
];
