//! How command lines are read.

use super::run::RunArgs;
use super::values::{Overlay, parse_cpus, parse_memory, parse_overlay};
use super::*;
use crate::runtime::command::Entrypoint;
use crate::runtime::oci::Writable;
use clap::CommandFactory;

#[derive(Debug, Parser)]
struct OnlyRun {
    #[command(flatten)]
    run: RunArgs,
}

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

fn words(line: &str) -> Vec<String> {
    match parse(line).unwrap_or_else(|error| panic!("{line}: {error}")).command {
        Command::Run(args) => args.words().to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn everything_after_the_image_is_the_command() {
    for (line, expected) in [
        ("ferry run img", "img"),
        ("ferry run img sh -c id", "img sh -c id"),
        ("ferry run img -e A=1", "img -e A=1"),
        ("ferry run -e A=1 img -e B=2 --rm", "img -e B=2 --rm"),
        ("ferry run --rm img --help", "img --help"),
        ("ferry run img --version -v", "img --version -v"),
        ("ferry run img -- x", "img -- x"),
        ("ferry run img a -- b", "img a -- b"),
        ("ferry run -- img x", "img x"),
        ("ferry run -it --rm -- img -x", "img -x"),
        ("ferry run - cat", "- cat"),
        ("ferry run -i - cat", "- cat"),
        ("ferry -v run img run", "img run"),
    ] {
        assert_eq!(words(line), expected.split(' ').collect::<Vec<_>>(), "{line}");
    }
}

#[test]
fn an_image_is_needed_and_unknown_options_before_it_are_refused() {
    for line in ["ferry", "ferry run", "ferry run --rm", "ferry run --nope img", "ferry nope", "ferry run -e"]
    {
        assert!(parse(line).is_err(), "{line}");
    }
}

fn options(line: &str) -> crate::runtime::oci::Options {
    let args = OnlyRun::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}")).run;
    args.container().options(args.words()[1..].to_vec(), None).unwrap()
}

#[test]
fn options_become_a_container() {
    let options = options(
        "run -itu 1:2 -w /x --hostname box -e A=1 -e B=2 --entrypoint sh --cap-add ALL -v .:/y:ro img -c id",
    );
    assert_eq!((options.volumes[0].target.as_str(), options.volumes[0].read_only), ("/y", true));
    assert!(options.terminal);
    assert_eq!(options.user.as_deref(), Some("1:2"));
    assert_eq!(options.working_dir.as_deref(), Some("/x"));
    assert_eq!(options.hostname.as_deref(), Some("box"));
    assert_eq!(options.environment, ["A=1", "B=2"]);
    assert_eq!(options.entrypoint, Entrypoint::Program("sh".into()));
    assert_eq!(options.command, ["-c", "id"]);
    assert_eq!(options.writable, Writable::Disk);
}

#[test]
fn an_empty_entrypoint_clears() {
    let args = OnlyRun::try_parse_from(["run", "--entrypoint", "", "img"]).unwrap().run;
    assert_eq!(args.container().options(vec![], None).unwrap().entrypoint, Entrypoint::Cleared);
}

#[test]
fn read_only_leaves_nothing_to_write_to() {
    assert_eq!(options("run --read-only img").writable, Writable::Nothing);
    assert_eq!(options("run --overlay tmpfs img").writable, Writable::Tmpfs);
    assert_eq!(options("run --overlay disk=1g img").writable, Writable::Disk);
}

#[test]
fn cores_need_a_root_to_write_to_and_are_for_pods_too() {
    let parsed = |line: &str| OnlyRun::try_parse_from(line.split(' ')).map(|parsed| parsed.run);
    let args = parsed("run --core-dir / --core-size 1m --read-only img").unwrap();
    let cores = args.cores().unwrap().expect("cores");
    assert_eq!((cores.directory.to_str(), cores.limit), (Some("/"), 1 << 20));
    assert!(args.container().options(vec![], Some(&cores)).unwrap_err().message.contains("--read-only"));
    assert_eq!(args.container().options(vec![], None).unwrap().core_limit, None);
    assert_eq!(options_with(&cores).core_limit, Some(1 << 20));
    assert!(parsed("run --core-dir / --pod file").unwrap().cores().unwrap().is_some());
    assert!(parsed("run -e A=1 --pod file").is_err());
    assert!(parsed("run --core-dir /no/such/place img").unwrap().cores().is_err());
    assert!(parsed("run --core-dir / --core-size 1k img").is_err());
    assert!(parsed("run --core-size 1m img").is_err());
}

fn options_with(cores: &crate::runtime::cores::Cores) -> crate::runtime::oci::Options {
    let args = OnlyRun::try_parse_from(["run", "img"]).unwrap().run;
    args.container().options(vec![], Some(cores)).unwrap()
}

#[test]
fn values_are_read_as_docker_reads_them() {
    assert!(parse_memory(&u64::MAX.to_string()).unwrap_err().contains("more than any machine has"));
    assert_eq!(parse_memory("512m"), Ok(512));
    assert_eq!(parse_memory("2g"), Ok(2048));
    assert_eq!(parse_memory("1048577"), Ok(2));
    assert!(parse_memory("512").unwrap_err().contains("512m"));
    assert_eq!(parse_cpus("4"), Ok(4));
    assert_eq!(parse_cpus("2.0"), Ok(2));
    for text in ["0", "1.5", "-1", "x", "", "300"] {
        assert!(parse_cpus(text).is_err(), "{text}");
    }
    assert_eq!(parse_overlay("disk"), Ok(Overlay::Disk(None)));
    assert_eq!(parse_overlay("disk=4g"), Ok(Overlay::Disk(Some(4 << 30))));
    assert_eq!(parse_overlay("tmpfs"), Ok(Overlay::Tmpfs));
    for text in ["", "disk=", "tmpfs=1g", "nfs"] {
        assert!(parse_overlay(text).is_err(), "{text}");
    }
}

#[test]
fn sig_proxy_is_on_unless_said_otherwise() {
    for (line, expected) in [
        ("run img", true),
        ("run --sig-proxy img", true),
        ("run --sig-proxy=false img", false),
        ("run --sig-proxy=true img", true),
    ] {
        assert_eq!(OnlyRun::try_parse_from(line.split(' ')).unwrap().run.sig_proxy(), expected, "{line}");
    }
}

#[test]
fn help_is_there_for_every_command() {
    for command in Cli::command().get_subcommands() {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
        }
    }
}
