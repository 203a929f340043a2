//! Counters: KVM's binary statistics (`query-stats`), and our own.

use api_socket::qmp::error::QmpError;
use api_socket::qmp::types::{
    Counter, CounterGroup, QueryStatsArguments, QueryStatsSchemasArguments, Stats, StatsProvider,
    StatsRequest, StatsResult, StatsSchema, StatsSchemaValue, StatsTarget, StatsType, StatsUnit,
    StatsValue,
};

use super::cpu::qom_path;
use crate::kvm::stats::{Descriptor, Kind, Stat, StatsFd, Unit};
use crate::lifecycle;
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
    let running = lifecycle::runs(main.state);
    main.machine.hold();
    let opened = StatsFd::open(&main.machine.vm).and_then(|vm| {
        let vcpus = main
            .machine
            .vcpus
            .held()
            .map(|vcpu| StatsFd::open(vcpu))
            .collect();
        Ok(KvmStats {
            vm,
            vcpus: Result::from_iter::<Vec<_>>(vcpus)?,
        })
    });
    if running {
        main.machine.run();
    }
    let opened = opened.map_err(|error| QmpError::generic(crate::chain::text(&error)))?;
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

/// QEMU shows the kernel's names with dashes.
fn wire_name(descriptor: &Descriptor) -> String {
    descriptor.name.replace('_', "-")
}

fn value_of(stat: Stat) -> Stats {
    let name = wire_name(&stat.descriptor);
    let first = stat.values.first().copied().unwrap_or_default();
    let value = match (stat.descriptor.kind, stat.descriptor.unit) {
        (Kind::LinearHistogram | Kind::Log2Histogram, _) => StatsValue::List(stat.values),
        (_, Some(Unit::Boolean)) => StatsValue::Boolean(first != 0),
        _ => StatsValue::Scalar(first),
    };
    Stats { name, value }
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
        name: wire_name(descriptor),
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

/// Exits of each vCPU by cause.
pub(super) fn counters(main: &MainLoop) -> Vec<CounterGroup> {
    main.machine
        .vcpus
        .threads()
        .enumerate()
        .map(|(index, (_, counters))| CounterGroup {
            id: qom_path(index),
            counters: counters
                .each()
                .map(|(name, value)| Counter {
                    name: name.to_owned(),
                    value,
                })
                .collect(),
        })
        .collect()
}
