# Bad input: each refused at plan, by the check that explains it.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  routes             = [{ bucket = "media", cpcode = "123456" }]
  secret             = { NS_HOSTNAME = "example-nsu.akamaihd.net", NS_USER = "upload", NS_KEY = "key" }
  nat_route_table_id = "rtb-0a1b2c3d"
}

run "a_bucket_in_another_region" {
  command = plan

  override_data {
    target = data.aws_s3_bucket.source["media"]
    values = {
      arn    = "arn:aws:s3:::media"
      region = "us-east-1"
    }
  }
  expect_failures = [data.aws_s3_bucket.source["media"]]
}

run "a_route_table_that_does_not_exist" {
  command = plan

  override_data {
    target = data.aws_route_tables.nat[0]
    values = {
      ids = []
    }
  }
  expect_failures = [data.aws_route_tables.nat[0]]
}

run "a_route_table_without_nat" {
  command = plan

  override_data {
    target = data.aws_route_table.nat[0]
    values = {
      vpc_id = "vpc-0a1b2c3d"
      routes = []
    }
  }
  expect_failures = [data.aws_route_table.nat[0]]
}

run "a_full_vpc" {
  command = plan

  override_data {
    target = data.aws_subnet.taken["subnet-00000001"]
    values = {
      cidr_block = "172.31.0.0/16"
      tags       = {}
    }
  }
  expect_failures = [terraform_data.subnets[0]]
}

run "ranges_that_are_taken" {
  command = plan
  variables {
    subnet_cidrs = ["172.31.255.0/25", "172.31.0.0/24"]
  }
  expect_failures = [terraform_data.subnets[0]]
}

run "values_of_the_wrong_form" {
  command = plan
  variables {
    name                = "S3nsync"
    secret_version      = 0
    event_path          = "sns"
    event_suffixes      = [""]
    subnet_cidrs        = ["172.31.0.0/24", "private"]
    image               = "s3nsync"
    architecture        = "arm64"
    min_tasks           = -1
    worker_environment  = { NS_KEY = "k" }
    intake_concurrency  = 0
    kms_key_arn         = "arn:aws:kms:eu-central-1:111122223333:alias/own"
    bucket_kms_key_arns = ["00000000-0000-0000-0000-000000000000"]
    operations          = { log_retention_days = 31, alarm_topic_arn = "alarms", verify_every_hours = 85 }
  }
  expect_failures = [
    var.name,
    var.secret_version,
    var.event_path,
    var.event_suffixes,
    var.subnet_cidrs,
    var.image,
    var.architecture,
    var.min_tasks,
    var.worker_environment,
    var.intake_concurrency,
    var.kms_key_arn,
    var.bucket_kms_key_arns,
    var.operations,
  ]
}

run "a_name_that_ecr_refuses" {
  command = plan
  variables {
    name = "media--replica"
  }
  expect_failures = [var.name]
}

run "a_name_that_ends_in_a_hyphen" {
  command = plan
  variables {
    name = "media-"
  }
  expect_failures = [var.name]
}

run "a_name_that_is_too_long" {
  command = plan
  variables {
    name = "a-name-of-more-than-thirty-one-x"
  }
  expect_failures = [var.name]
}

run "a_name_of_another_deployments_part" {
  command = plan
  variables {
    name = "s3nsync-bulk"
  }
  expect_failures = [var.name]
}

run "a_name_that_ec2_keeps" {
  command = plan
  variables {
    name = "sg-media"
  }
  expect_failures = [var.name]
}

run "a_key_of_another_region" {
  command = plan
  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:111122223333:key/00000000-0000-0000-0000-000000000000"
  }
  expect_failures = [var.kms_key_arn]
}

run "a_topic_of_another_region" {
  command = plan
  variables {
    operations = { alarm_topic_arn = "arn:aws:sns:eu-west-1:111122223333:alarms" }
  }
  expect_failures = [var.operations]
}

run "a_topic_that_is_none" {
  command = plan
  variables {
    operations = { alarm_topic_arn = "alarms" }
  }
  expect_failures = [var.operations]
}

run "logs_kept_for_a_time_that_cloudwatch_has_not" {
  command = plan
  variables {
    operations = { log_retention_days = 31 }
  }
  expect_failures = [var.operations]
}

run "unknown_folder_markers" {
  command = plan
  variables {
    routes = [{ bucket = "media", cpcode = "1", folder_markers = "keep" }]
  }
  expect_failures = [var.routes]
}

run "an_unknown_answer_to_content_encoding" {
  command = plan
  variables {
    routes = [{ bucket = "media", cpcode = "1", content_encoding = "strip" }]
  }
  expect_failures = [var.routes]
}

run "no_route" {
  command = plan
  variables {
    routes = []
  }
  expect_failures = [var.routes]
}

run "a_bucket_that_is_empty" {
  command = plan
  variables {
    routes = [{ bucket = "", cpcode = "1" }]
  }
  expect_failures = [var.routes]
}

run "a_bucket_that_is_an_arn" {
  command = plan
  variables {
    routes = [{ bucket = "arn:aws:s3:::media", cpcode = "1" }]
  }
  expect_failures = [var.routes]
}

run "a_cpcode_that_is_no_number" {
  command = plan
  variables {
    routes = [{ bucket = "media", cpcode = "cp-123" }]
  }
  expect_failures = [var.routes]
}

run "a_directory_that_climbs" {
  command = plan
  variables {
    routes = [{ bucket = "media", cpcode = "1", directory = "a/../b" }]
  }
  expect_failures = [var.routes]
}

run "a_strip_prefix_outside_the_prefix" {
  command = plan
  variables {
    routes = [{ bucket = "media", cpcode = "1", prefix = "a/", strip_prefix = "b/" }]
  }
  expect_failures = [var.routes]
}

run "an_unknown_policy" {
  command = plan
  variables {
    routes = [{ bucket = "media", cpcode = "1", deletes = "mirrored" }]
  }
  expect_failures = [var.routes]
}

run "a_trash_among_the_routes_own_files" {
  command = plan
  variables {
    routes = [{ bucket = "media", cpcode = "1", deletes = "trash" }]
  }
  expect_failures = [var.routes]
}

run "a_settling_time_beyond_sqs" {
  command = plan
  variables {
    routes = [{ bucket = "media", cpcode = "1", settle_s = 43201 }]
  }
  expect_failures = [var.routes]
}

run "one_prefix_twice" {
  command = plan
  variables {
    routes = [{ bucket = "media", cpcode = "1" }, { bucket = "media", cpcode = "2" }]
  }
  expect_failures = [var.routes]
}

run "routes_beyond_lambdas_environment" {
  command = plan
  variables {
    routes = [for number in range(40) : { bucket = "media", cpcode = "1", prefix = "${number}/", directory = "a-name-of-some-length-for-a-directory-${number}" }]
  }
  expect_failures = [var.routes]
}

run "no_secret" {
  command = plan
  variables {
    secret = null
  }
  expect_failures = [var.secret]
}

run "two_secrets" {
  command = plan
  variables {
    secret_arns = { default = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:ns-AbCdEf" }
  }
  expect_failures = [var.secret]
}

run "a_secret_without_key" {
  command = plan
  variables {
    secret = { NS_HOSTNAME = "h", NS_USER = "u" }
  }
  expect_failures = [var.secret]
}

run "a_secret_with_more" {
  command = plan
  variables {
    secret = { NS_HOSTNAME = "h", NS_USER = "u", NS_KEY = "k", NS_PATH = "p" }
  }
  expect_failures = [var.secret]
}

run "a_secret_with_an_empty_key" {
  command = plan
  variables {
    secret = { NS_HOSTNAME = "h", NS_USER = "u", NS_KEY = " " }
  }
  expect_failures = [var.secret]
}

run "a_secret_with_a_url" {
  command = plan
  variables {
    secret = { NS_HOSTNAME = "https://h", NS_USER = "u", NS_KEY = "k" }
  }
  expect_failures = [var.secret]
}

run "a_secret_by_name" {
  command = plan
  variables {
    secret_arns = { second = "netstorage" }
  }
  expect_failures = [var.secret_arns]
}

run "an_account_with_capitals" {
  command = plan
  variables {
    secret_arns = { Second = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:ns-AbCdEf" }
  }
  expect_failures = [var.secret_arns]
}

run "an_account_without_secret" {
  command = plan
  variables {
    routes = [{ bucket = "media", cpcode = "1", account = "second" }]
  }
  expect_failures = [var.secret_arns]
}

run "overlapping_suffixes" {
  command = plan
  variables {
    event_suffixes = [".gz", ".tar.gz"]
  }
  expect_failures = [var.event_suffixes]
}

run "no_network" {
  command = plan
  variables {
    nat_route_table_id = null
  }
  expect_failures = [var.nat_route_table_id]
}

run "two_networks" {
  command = plan
  variables {
    subnet_ids = ["subnet-0a"]
  }
  expect_failures = [var.nat_route_table_id]
}

run "a_route_table_by_name" {
  command = plan
  variables {
    nat_route_table_id = "private"
  }
  expect_failures = [var.nat_route_table_id]
}

run "a_subnet_by_name" {
  command = plan
  variables {
    nat_route_table_id = null
    subnet_ids         = ["private"]
  }
  expect_failures = [var.subnet_ids]
}

run "subnets_of_two_vpcs" {
  command = plan
  variables {
    nat_route_table_id = null
    subnet_ids         = ["subnet-0000000a", "subnet-0000000b"]
  }

  override_data {
    target = data.aws_subnet.given["subnet-0000000b"]
    values = {
      vpc_id = "vpc-0000000f"
    }
  }
  expect_failures = [aws_security_group.worker]
}

run "one_range" {
  command = plan
  variables {
    subnet_cidrs = ["172.31.0.0/24"]
  }
  expect_failures = [var.subnet_cidrs]
}

run "ranges_that_overlap_each_other" {
  command = plan
  variables {
    subnet_cidrs = ["172.31.0.0/20", "172.31.8.0/24"]
  }
  expect_failures = [var.subnet_cidrs]
}

run "ranges_outside_the_vpc" {
  command = plan
  variables {
    subnet_cidrs = ["172.31.0.0/24", "10.0.0.0/24"]
  }
  expect_failures = [terraform_data.subnets[0]]
}

run "half_a_core_too_many" {
  command = plan
  variables {
    cpu = 1536
  }
  expect_failures = [var.cpu]
}

run "a_size_that_fargate_has_not" {
  command = plan
  variables {
    cpu    = 256
    memory = 4096
  }
  expect_failures = [var.memory]
}

run "more_at_rest_than_at_most" {
  command = plan
  variables {
    min_tasks = 5
    max_tasks = 4
  }
  expect_failures = [var.max_tasks]
}

run "a_setting_that_the_module_owns" {
  command = plan
  variables {
    worker_environment = { S3NSYNC_WORKER_GRACE_S = "0" }
  }
  expect_failures = [var.worker_environment]
}

run "a_setting_that_there_is_not" {
  command = plan
  variables {
    worker_environment = { S3NSYNC_WORKER_MAX_INFLIGHT = "128" }
  }
  expect_failures = [var.worker_environment]
}

run "a_limit_of_no_account" {
  command = plan
  variables {
    worker_environment = { NS_MAX_IN_FLIGHT_VIDEO = "8" }
  }
  expect_failures = [var.worker_environment]
}

run "a_log_without_the_metrics" {
  command = plan
  variables {
    worker_environment = { S3NSYNC_LOG_FORMAT = "console" }
  }
  expect_failures = [var.worker_environment]
}

run "no_metrics" {
  command = plan
  variables {
    worker_environment = { S3NSYNC_METRICS_EMF = "false" }
  }
  expect_failures = [var.worker_environment]
}

run "a_verify_more_than_hourly" {
  command = plan
  variables {
    operations = { verify_every_hours = 0.5 }
  }
  expect_failures = [var.operations]
}

run "a_verify_less_than_twice_a_week" {
  command = plan
  variables {
    operations = { verify_every_hours = 85 }
  }
  expect_failures = [var.operations]
}
