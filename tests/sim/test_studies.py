"""The published failure figures, as the studies claim them."""

from studies import study_cluster_failure_rates, study_llama3_failures


def test_llama3_reaches_its_effective_training_time():
    study_llama3_failures.check(study_llama3_failures.findings())


def test_failure_rates_of_large_jobs():
    study_cluster_failure_rates.check(study_cluster_failure_rates.rows())
