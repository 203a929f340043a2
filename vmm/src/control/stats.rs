//! Counters: KVM's binary statistics (`query-stats`), and our own.

use api_socket::qmp::error::QmpError;
use api_socket::qmp::types::{
    Counter, CounterGroup, QueryStatsArguments, QueryStatsSchemasArguments, Stats, StatsProvider,
    StatsRequest, StatsResult, StatsSchema, StatsSchemaValue, StatsTarget, StatsType, StatsUnit,
    StatsValue,
};

use super::block::qdev;
use super::cpu::qom_path;
use crate::attach::VirtioKind;
use crate::kvm::stats::{Descriptor, Kind, Stat, StatsError, StatsFd, Unit};
use crate::main_loop::MainLoop;

/// KVM's statistics descriptors, opened at the first question.
#[derive(Debug)]
pub(crate) struct KvmStats {
    vm: StatsFd,
    vcpus: Vec<StatsFd>,
}

/// Opens the descriptors if they are not yet. KVM gives a vCPU's only while it is not in
/// `KVM_RUN`, so a running guest is held for a moment, once.
fn open(main: &mut MainLoop) -> Result<(), QmpError> {
    if main.kvm_stats.is_some() {
        return Ok(());
    }
    let opened = main.while_held(|machine| {
        Ok(KvmStats {
            vm: StatsFd::open(machine.vm())?,
            vcpus: machine
                .vcpus()
                .map(|vcpu| StatsFd::open(vcpu))
                .collect::<Result<_, _>>()?,
        })
    });
    let opened =
        opened.map_err(|error: StatsError| QmpError::generic(crate::chain::text(&error)))?;
    main.kvm_stats = Some(opened);
    Ok(())
}

pub(super) fn query(
    main: &mut MainLoop,
    arguments: &QueryStatsArguments,
) -> Result<Vec<StatsResult>, QmpError> {
    open(main)?;
    let Some(stats) = &main.kvm_stats else {
        return Ok(Vec::new());
    };
    let read = |fd: &StatsFd, providers: &Option<Vec<StatsRequest>>, qom_path| {
        let values = fd
            .read()
            .map_err(|error| QmpError::generic(crate::chain::text(&error)))?;
        Ok::<_, QmpError>(select(values, providers.as_deref(), qom_path))
    };
    match arguments {
        QueryStatsArguments::Vm { providers } => {
            Ok(read(&stats.vm, providers, None)?.into_iter().collect())
        }
        QueryStatsArguments::Vcpu { providers, vcpus } => {
            let mut results = Vec::new();
            for (index, fd) in stats.vcpus.iter().enumerate() {
                let path = qom_path(index);
                if vcpus.as_ref().is_none_or(|wanted| wanted.contains(&path)) {
                    results.extend(read(fd, providers, Some(path))?);
                }
            }
            Ok(results)
        }
    }
}

/// The values a client asked for; `None` if it asked for none of this provider's.
fn select(
    values: Vec<Stat>,
    providers: Option<&[StatsRequest]>,
    qom_path: Option<String>,
) -> Option<StatsResult> {
    let names = match providers {
        None => None,
        Some(requests) => requests
            .iter()
            .find(|request| request.provider == StatsProvider::Kvm)?
            .names
            .as_ref(),
    };
    let stats = values
        .into_iter()
        .map(value_of)
        .filter(|stat| names.is_none_or(|names| names.contains(&stat.name)))
        .collect();
    Some(StatsResult {
        provider: StatsProvider::Kvm,
        qom_path,
        stats,
    })
}

fn value_of(stat: Stat) -> Stats {
    let first = stat.values.first().copied().unwrap_or_default();
    let value = match (stat.descriptor.kind, stat.descriptor.unit) {
        (Kind::LinearHistogram | Kind::Log2Histogram, _) => StatsValue::List(stat.values),
        (_, Some(Unit::Boolean)) => StatsValue::Boolean(first != 0),
        _ => StatsValue::Scalar(first),
    };
    Stats {
        name: stat.descriptor.name,
        value,
    }
}

pub(super) fn schemas(
    main: &mut MainLoop,
    arguments: &QueryStatsSchemasArguments,
) -> Result<Vec<StatsSchema>, QmpError> {
    // There is one provider, so naming it changes nothing.
    let QueryStatsSchemasArguments { provider: _ } = arguments;
    open(main)?;
    let Some(stats) = &main.kvm_stats else {
        return Ok(Vec::new());
    };
    let schema = |target, fd: &StatsFd| StatsSchema {
        provider: StatsProvider::Kvm,
        target,
        stats: fd.descriptors().iter().map(schema_of).collect(),
    };
    let mut schemas = vec![schema(StatsTarget::Vm, &stats.vm)];
    schemas.extend(
        stats
            .vcpus
            .first()
            .map(|vcpu| schema(StatsTarget::Vcpu, vcpu)),
    );
    Ok(schemas)
}

fn schema_of(descriptor: &Descriptor) -> StatsSchemaValue {
    StatsSchemaValue {
        name: descriptor.name.clone(),
        kind: match descriptor.kind {
            Kind::Cumulative => StatsType::Cumulative,
            Kind::Instant => StatsType::Instant,
            Kind::Peak => StatsType::Peak,
            Kind::LinearHistogram => StatsType::LinearHistogram,
            Kind::Log2Histogram => StatsType::Log2Histogram,
        },
        unit: descriptor.unit.map(|unit| match unit {
            Unit::Bytes => StatsUnit::Bytes,
            Unit::Seconds => StatsUnit::Seconds,
            Unit::Cycles => StatsUnit::Cycles,
            Unit::Boolean => StatsUnit::Boolean,
        }),
        base: (descriptor.exponent != 0).then(|| i64::from(descriptor.base)),
        exponent: i64::from(descriptor.exponent),
        bucket_size: descriptor.bucket_size,
    }
}

/// Exits of each vCPU by cause, and what devices count that no command of QEMU's shows.
pub(super) fn counters(main: &MainLoop) -> Vec<CounterGroup> {
    let vcpus = main.machine.vcpus.threads().enumerate();
    let mut groups: Vec<_> = vcpus
        .map(|(index, (_, counters))| group(qom_path(index), counters.each()))
        .collect();
    for slot in &main.machine.virtio {
        match &slot.kind {
            VirtioKind::Net(info) => {
                groups.push(group(qdev(&slot.id), info.handle.stats().each()));
            }
            VirtioKind::Vsock(stats) => groups.push(group(slot.id.to_string(), stats.each())),
            VirtioKind::Blk(_) | VirtioKind::Rng => {}
        }
    }
    groups
}

fn group(id: String, counters: impl IntoIterator<Item = (&'static str, u64)>) -> CounterGroup {
    let counter = |(name, value): (&str, u64)| Counter {
        name: name.to_owned(),
        value,
    };
    CounterGroup {
        id,
        counters: counters.into_iter().map(counter).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(name: &str, kind: Kind, unit: Option<Unit>, values: &[u64]) -> Stat {
        Stat {
            descriptor: Descriptor::sample(name, kind, unit),
            values: values.to_vec(),
        }
    }

    fn stats() -> Vec<Stat> {
        vec![
            stat("pages_4k", Kind::Instant, None, &[7]),
            stat("blocking", Kind::Instant, Some(Unit::Boolean), &[1]),
            stat("wait_hist", Kind::Log2Histogram, None, &[1, 2]),
        ]
    }

    fn ask(provider: StatsProvider, names: Option<&[&str]>) -> Vec<StatsRequest> {
        let names = names.map(|names| names.iter().map(|&name| name.to_owned()).collect());
        vec![StatsRequest { provider, names }]
    }

    #[test]
    fn values_keep_the_kernels_names_and_show_their_kind() {
        let all = select(stats(), None, None).unwrap();
        let shown: Vec<_> = all.stats.iter().map(|s| (&*s.name, &s.value)).collect();
        assert_eq!(
            shown,
            [
                ("pages_4k", &StatsValue::Scalar(7)),
                ("blocking", &StatsValue::Boolean(true)),
                ("wait_hist", &StatsValue::List(vec![1, 2])),
            ]
        );
    }

    #[test]
    fn a_client_gets_what_it_names() {
        let path = qom_path(1);
        let some = ask(StatsProvider::Kvm, Some(&["pages_4k", "no_such"]));
        let some = select(stats(), Some(&some), Some(path.clone())).unwrap();
        assert_eq!(some.qom_path, Some(path));
        assert_eq!(some.stats.len(), 1);
        let all = ask(StatsProvider::Kvm, None);
        assert_eq!(select(stats(), Some(&all), None).unwrap().stats.len(), 3);
        assert_eq!(select(stats(), Some(&[]), None), None);
    }

    #[test]
    fn a_schema_shows_the_scale_where_there_is_one() {
        let mut descriptor = Descriptor::sample("wait_ns", Kind::Cumulative, Some(Unit::Seconds));
        let plain = schema_of(&descriptor);
        assert_eq!((plain.base, plain.exponent), (None, 0));
        (descriptor.base, descriptor.exponent) = (10, -9);
        let scaled = schema_of(&descriptor);
        assert_eq!(scaled.name, "wait_ns");
        assert_eq!((scaled.base, scaled.exponent), (Some(10), -9));
    }
}
