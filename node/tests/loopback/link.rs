//! Links as `wattle link` measures them.

use super::{lines, said, turn, up_with, wattle};

/// Goal: both ways of carrying tensors are measured, and every figure is one of this link. Method: a peer on loopback, over QUIC
/// and over TCP.
#[test]
fn a_link_is_measured_while_it_is_full() {
    let _turn = turn();
    let network = format!("link-{}", std::process::id());
    let (_peer, ticket) = up_with(&network, None, &[]);
    for (flags, transport) in [(&[][..], "quic"), (&["--tcp-only"][..], "tcp")] {
        let mut command = wattle();
        command.args(["link", &ticket, "--json", "--seconds", "2", "--no-mdns"]).args(flags);
        let output =
            command.args(["--listen", "127.0.0.1:0", "--network", &network]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let [line] = &lines(&output.stdout)[..] else { panic!("one line") };
        assert_eq!(
            (&line["schema"], &line["transport"]),
            (&"wattle.link.v1".into(), &transport.into())
        );
        assert!(ticket.contains(line["peer"].as_str().unwrap()));
        let (bytes, rate) =
            (line["bytes"].as_f64().unwrap(), line["bytes_per_second"].as_f64().unwrap());
        assert!(bytes > 0.0 && rate > 0.0 && rate < bytes * 2.0, "{line}");
        for state in ["quiet_seconds", "full_seconds"] {
            let figure = |name| line[state][name].as_f64().unwrap();
            assert!(figure("answers") > 10.0, "{line}");
            assert!(0.0 < figure("median") && figure("median") <= figure("p99"), "{line}");
        }
        assert_eq!(line["packets_sent"].is_null(), transport == "tcp", "{line}");
    }
    let output = wattle().args(["link", &ticket[..40], "--no-mdns"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("copy the whole line that `wattle up` prints"),
        "{}",
        said(&output)
    );
}
