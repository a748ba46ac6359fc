# The module: what its defaults make, and what each choice changes.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  routes             = [{ bucket = "media", cpcode = "123456" }]
  secret             = { NS_HOSTNAME = "example-nsu.akamaihd.net", NS_USER = "upload", NS_KEY = "key" }
  nat_route_table_id = "rtb-0a1b2c3d"
}

run "defaults" {
  command = plan

  assert {
    condition = (
      aws_sqs_queue.live.name == "s3nsync.fifo" &&
      aws_sqs_queue.bulk.name == "s3nsync-bulk.fifo" &&
      aws_sqs_queue.check.name == "s3nsync-check.fifo" &&
      aws_sqs_queue.dead.name == "s3nsync-dead.fifo" &&
      aws_sqs_queue.failure.name == "s3nsync-failure"
    )
    error_message = "Queue names are stable."
  }

  assert {
    condition = (
      alltrue([
        for queue in [aws_sqs_queue.live, aws_sqs_queue.bulk, aws_sqs_queue.check, aws_sqs_queue.dead] :
        queue.fifo_queue &&
        queue.deduplication_scope == "messageGroup" &&
        queue.fifo_throughput_limit == "perMessageGroupId"
      ])
    )
    error_message = "FIFO queues are high-throughput."
  }

  assert {
    condition = (
      aws_sqs_queue.check.delay_seconds == tonumber(local.worker_environment.S3NSYNC_WORKER_GRACE_S) &&
      aws_sqs_queue.live.visibility_timeout_seconds == tonumber(local.worker_environment.S3NSYNC_WORKER_LEASE_S)
    )
    error_message = "Queues and worker agree on grace and lease."
  }

  assert {
    condition = (
      aws_lambda_function.intake.handler == "s3nsync.intake.handler" &&
      aws_lambda_function.intake.architectures == tolist(["arm64"]) &&
      aws_lambda_function.intake.reserved_concurrent_executions == -1
    )
    error_message = "The function is ARM64 and shares the account's concurrency."
  }

  assert {
    condition = (
      toset(local.archive_modules) == toset([
        "__init__", "errors", "events", "intake", "mapping", "model"
      ])
    )
    error_message = "The archive's modules are read from lambda_zip.py."
  }

  assert {
    condition = (
      length(aws_s3_bucket_notification.source["media"].lambda_function) == 1 &&
      !aws_s3_bucket_notification.source["media"].eventbridge &&
      length(aws_cloudwatch_event_rule.source) == 0
    )
    error_message = "S3 calls the function itself."
  }

  assert {
    condition = (
      toset(aws_s3_bucket_notification.source["media"].lambda_function[0].events) == toset([
        "s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*", "s3:ObjectRestore:Completed"
      ])
    )
    error_message = "Four kinds of events are asked for."
  }

  assert {
    condition     = aws_lambda_permission.s3["media"].source_account == "111122223333"
    error_message = "Only buckets of this account may call."
  }

  assert {
    condition = (
      length(aws_subnet.this) == 2 &&
      terraform_data.subnets[0].input.cidrs == tolist(["172.31.254.0/24", "172.31.253.0/24"]) &&
      length(aws_vpc_endpoint.s3) == 1
    )
    error_message = "The two highest free ranges are chosen, and S3 traffic avoids the NAT."
  }

  assert {
    condition = (
      length(aws_secretsmanager_secret.this) == 1 &&
      aws_secretsmanager_secret_version.this[0].secret_string == null
    )
    error_message = "The key is not in the plan."
  }

  assert {
    condition = (
      length(aws_ecr_repository.this) == 1 &&
      aws_ecr_repository.this[0].image_tag_mutability == "IMMUTABLE" &&
      can(regex("^[0-9a-f]{16}$", local.image_tag))
    )
    error_message = "The image is built, under a tag that says its sources."
  }

  assert {
    condition = (
      one(aws_ecs_service.worker.capacity_provider_strategy).capacity_provider == "FARGATE" &&
      aws_ecs_service.worker.desired_count == 1 &&
      !aws_ecs_service.worker.network_configuration[0].assign_public_ip
    )
    error_message = "One task on Fargate, without a public address."
  }

  assert {
    condition = (
      aws_appautoscaling_target.worker.min_capacity == 1 &&
      aws_appautoscaling_target.worker.max_capacity == 10
    )
    error_message = "One to ten tasks."
  }

  assert {
    condition = (
      aws_appautoscaling_policy.backlog.target_tracking_scaling_policy_configuration[0].disable_scale_in &&
      aws_cloudwatch_metric_alarm.rest.threshold == 0
    )
    error_message = "Scaling in needs empty queues."
  }

  assert {
    condition = (
      toset(keys(aws_cloudwatch_metric_alarm.this)) == toset([
      "dead-letters", "dead-letters-expiring", "oldest-message", "intake-errors", "intake-failures", "lag"]) &&
      length(aws_cloudwatch_metric_alarm.no_worker) == 1
    )
    error_message = "Every alarm is there."
  }

  assert {
    condition = (
      aws_cloudwatch_dashboard.this.dashboard_name == "s3nsync-eu-central-1" &&
      alltrue([for role in aws_iam_role.this : startswith(role.name, "s3nsync-eu-central-1-")])
    )
    error_message = "What an account has once for all regions has the region in its name."
  }

  assert {
    condition     = length(aws_kms_key.this) == 1 && aws_kms_key.this[0].enable_key_rotation
    error_message = "A key of its own, rotated."
  }

  assert {
    condition     = alltrue([for group in aws_cloudwatch_log_group.this : group.retention_in_days == 30])
    error_message = "Logs are kept for 30 days."
  }

  assert {
    condition = (
      length(aws_scheduler_schedule.verify) == 0 &&
      length(aws_ecs_task_definition.verify) == 0 &&
      length(aws_cloudwatch_metric_alarm.verify) == 0 &&
      toset(keys(aws_iam_role.this)) == toset(["intake", "worker", "execution"])
    )
    error_message = "Nothing is verified on a schedule, and no role is made for it."
  }
}

run "several_buckets_and_prefixes" {
  command = plan
  variables {
    routes = [
      { bucket = "media", cpcode = "1", prefix = "video/" },
      { bucket = "media", cpcode = "1", prefix = "video/live/", deletes = "ignore" },
      { bucket = "media", cpcode = "1", prefix = "büro a/" },
      { bucket = "site", cpcode = "2" },
    ]
    event_suffixes = [".mp4", ".m3u8"]
  }

  assert {
    condition = (
      toset(aws_s3_bucket_notification.source["media"].lambda_function[*].filter_prefix) == toset([
        "video/", "b%C3%BCro+a/"
      ])
    )
    error_message = "Nested prefixes are asked for once, in the form that events carry."
  }

  assert {
    condition = (
      length(aws_s3_bucket_notification.source["media"].lambda_function) == 4 &&
      length(aws_s3_bucket_notification.source["site"].lambda_function) == 2
    )
    error_message = "Each prefix with each suffix."
  }

  assert {
    condition     = length(distinct(aws_s3_bucket_notification.source["media"].lambda_function[*].id)) == 4
    error_message = "Each filter has its own id."
  }

  assert {
    condition = (
      alltrue([
      for entry in aws_s3_bucket_notification.source["media"].lambda_function : startswith(entry.id, "s3nsync-")])
    )
    error_message = "Ids begin with the name, so that ours are known."
  }
}

run "events_by_eventbridge" {
  command = plan
  variables {
    event_path = "eventbridge"
    routes = [
      { bucket = "media", cpcode = "1", prefix = "a*b/" },
      { bucket = "site", cpcode = "2" },
    ]
    event_suffixes = [".mp4"]
  }

  assert {
    condition = (
      aws_s3_bucket_notification.source["media"].eventbridge &&
      length(aws_s3_bucket_notification.source["media"].lambda_function) == 0 &&
      length(aws_lambda_permission.s3) == 0
    )
    error_message = "EventBridge is turned on, and S3 calls nothing itself."
  }

  assert {
    condition = (
      jsondecode(aws_cloudwatch_event_rule.source["media"].event_pattern).detail == {
        bucket = { name = ["media"] }
        object = { key = [{ wildcard = "a\\*b/*.mp4" }] }
      }
    )
    error_message = "The rule takes raw keys, and * in a prefix is meant."
  }

  assert {
    condition     = jsondecode(aws_cloudwatch_event_rule.source["site"].event_pattern).detail.object.key == [{ suffix = ".mp4" }]
    error_message = "Without a prefix there is no wildcard."
  }

  assert {
    condition = (
      aws_cloudwatch_event_target.source["media"].retry_policy[0].maximum_event_age_in_seconds == 86400
    )
    error_message = "A day of retries."
  }
}

run "events_by_a_bucket_that_others_manage" {
  command = plan
  variables {
    event_path                 = "eventbridge"
    manage_bucket_notification = false
  }

  assert {
    condition = (
      length(aws_s3_bucket_notification.source) == 0 &&
      length(terraform_data.bucket_is_free) == 0 &&
      length(aws_cloudwatch_event_rule.source) == 1
    )
    error_message = "The bucket is not touched."
  }

  assert {
    condition = (
      jsondecode(aws_cloudwatch_event_rule.source["media"].event_pattern).detail.object.key == [{ prefix = "" }]
    )
    error_message = "The whole bucket."
  }
}

run "spot_and_no_task_at_rest" {
  command = plan
  variables {
    spot         = true
    min_tasks    = 0
    max_tasks    = 3
    architecture = "X86_64"
  }

  assert {
    condition     = one(aws_ecs_service.worker.capacity_provider_strategy).capacity_provider == "FARGATE_SPOT"
    error_message = "Tasks run on Spot."
  }

  assert {
    condition = (
      aws_appautoscaling_target.worker.min_capacity == 0 &&
      length(aws_cloudwatch_metric_alarm.no_worker) == 0
    )
    error_message = "No task is no fault."
  }

  assert {
    condition = (
      aws_ecs_task_definition.worker.runtime_platform[0].cpu_architecture == "X86_64" &&
      aws_lambda_function.intake.architectures == tolist(["x86_64"
      ])
    )
    error_message = "One architecture for both."
  }
}

run "existing_subnets" {
  command = plan
  variables {
    nat_route_table_id = null
    subnet_ids         = ["subnet-0000000a", "subnet-0000000b"]
  }

  assert {
    condition = (
      length(aws_subnet.this) == 0 &&
      length(aws_vpc_endpoint.s3) == 0 &&
      length(aws_route_table_association.this) == 0
    )
    error_message = "Nothing is made in the network."
  }

  assert {
    condition = (
      aws_ecs_service.worker.network_configuration[0].subnets == toset([
      "subnet-0000000a", "subnet-0000000b"]) &&
      aws_security_group.worker.vpc_id == "vpc-0a1b2c3d"
    )
    error_message = "Tasks use the subnets given."
  }
}

run "own_addresses" {
  command = plan
  variables {
    subnet_cidrs       = ["172.31.96.0/20", "172.31.112.0/20"]
    create_s3_endpoint = false
  }

  assert {
    condition = (
      aws_subnet.this[0].cidr_block == "172.31.96.0/20" &&
      aws_subnet.this[1].cidr_block == "172.31.112.0/20" &&
      length(aws_vpc_endpoint.s3) == 0
    )
    error_message = "The ranges given are used, without an endpoint."
  }
}

run "existing_secret" {
  command = plan
  variables {
    secret      = null
    secret_arns = { default = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:ns-AbCdEf", second = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:ns2-AbCdEf" }
    routes      = [{ bucket = "media", cpcode = "1" }, { bucket = "site", cpcode = "2", account = "second" }]
  }

  assert {
    condition     = length(aws_secretsmanager_secret.this) == 0 && length(local.secret_arns) == 2
    error_message = "No secret is made."
  }
}

run "existing_image_key_and_topic" {
  command = plan
  variables {
    image       = "111122223333.dkr.ecr.eu-west-1.amazonaws.com/tools/s3nsync:1.0"
    kms_key_arn = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-000000000000"
    operations  = { alarm_topic_arn = "arn:aws:sns:eu-central-1:111122223333:alarms" }
  }

  assert {
    condition = (
      length(aws_ecr_repository.this) == 0 &&
      length(terraform_data.image) == 0 &&
      local.image == "111122223333.dkr.ecr.eu-west-1.amazonaws.com/tools/s3nsync:1.0"
    )
    error_message = "Nothing is built."
  }

  assert {
    condition = (
      one(local.pulled_repository_arns) == "arn:aws:ecr:eu-west-1:111122223333:repository/tools/s3nsync"
    )
    error_message = "The image's own repository may be pulled from, no other."
  }

  assert {
    condition = (
      length(aws_kms_key.this) == 0 &&
      length(aws_sns_topic.alarms) == 0 &&
      aws_sqs_queue.live.kms_master_key_id == "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-000000000000"
    )
    error_message = "Key and topic given are used."
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.no_progress.alarm_actions == toset([
        "arn:aws:sns:eu-central-1:111122223333:alarms"
      ])
    )
    error_message = "Alarms go there."
  }
}

run "the_workers_settings_reach_it" {
  command = plan
  variables {
    secret_arns = { video = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:video-abcdef" }
    worker_environment = {
      S3NSYNC_WORKER_MAX_IN_FLIGHT = "128", S3NSYNC_LOG_LEVEL = "warning", NS_REQUESTS_PER_S = "50", NS_BYTES_PER_S_VIDEO = "5000000"
    }
  }

  assert {
    condition = (
      local.worker_environment.S3NSYNC_WORKER_MAX_IN_FLIGHT == "128" &&
      local.worker_environment.S3NSYNC_LOG_LEVEL == "warning" &&
      local.worker_environment.NS_REQUESTS_PER_S == "50" &&
      local.worker_environment.NS_BYTES_PER_S_VIDEO == "5000000" &&
      local.worker_environment.S3NSYNC_LOG_FORMAT == "json" &&
      local.worker_environment.S3NSYNC_METRICS_SERVICE == "s3nsync"
    )
    error_message = "Settings are added to the module's own."
  }

  assert {
    condition = toset([
      for metric in one([for panel in local.panels : panel.metrics if startswith(panel.title, "Each account")]) : "${metric[1]} ${metric[5]}"
      ]) == toset([
      for pair in setproduct(["window", "waiting", "window_cuts"], ["default", "video"]) : join(" ", pair)
    ])
    error_message = "A panel has the way to each account."
  }
}

run "a_rotated_secret_reaches_the_tasks" {
  command = plan
  variables {
    secret_version = 2
  }

  assert {
    condition     = aws_secretsmanager_secret_version.this[0].secret_string_wo_version == 2
    error_message = "The new value is written."
  }

  assert {
    condition     = local.worker_labels == { "s3nsync.secret-version" = "2" }
    error_message = "The task's definition changes with it, so that new tasks start: a task reads the secret once."
  }
}

run "a_region_with_one_zone_for_fargate" {
  command = plan

  override_data {
    target = data.aws_availability_zones.this
    values = { names = ["us-west-1c"] }
  }

  assert {
    condition     = contains(data.aws_availability_zones.this.exclude_zone_ids, "usw1-az2")
    error_message = "Zones without Fargate are not asked for."
  }

  assert {
    condition     = terraform_data.subnets[0].input.zones == ["us-west-1c", "us-west-1c"]
    error_message = "Both subnets lie in the one that there is."
  }
}

run "subnets_in_a_further_range_of_the_vpc" {
  command = plan
  variables {
    subnet_cidrs = ["100.64.0.0/28", "100.64.0.16/28"]
  }

  override_data {
    target = data.aws_vpc.this[0]
    values = {
      cidr_block = "172.31.0.0/16"
      cidr_block_associations = [
        { association_id = "a", cidr_block = "172.31.0.0/16", state = "associated" },
        { association_id = "b", cidr_block = "100.64.0.0/24", state = "associated" },
      ]
    }
  }

  assert {
    condition     = aws_subnet.this[1].cidr_block == "100.64.0.16/28"
    error_message = "Any range of the VPC will do."
  }
}

run "proof_on_a_schedule" {
  command = plan
  variables {
    operations = { verify_every_hours = 84, log_retention_days = 7 }
  }

  assert {
    condition     = aws_scheduler_schedule.verify[0].schedule_expression == "rate(84 hours)"
    error_message = "As often as was asked for."
  }

  assert {
    condition = (
      aws_ecs_task_definition.verify[0].family == "s3nsync-verify" &&
      aws_ecs_task_definition.verify[0].cpu == aws_ecs_task_definition.worker.cpu &&
      aws_scheduler_schedule.verify[0].target[0].ecs_parameters[0].launch_type == "FARGATE" &&
      !aws_scheduler_schedule.verify[0].target[0].ecs_parameters[0].network_configuration[0].assign_public_ip
    )
    error_message = "A task of the worker's size, in its network."
  }

  assert {
    condition = (
      toset(keys(aws_iam_role.this)) == toset(["intake", "worker", "execution", "verify", "scheduler"]) &&
      toset(keys(aws_iam_policy.this)) == toset(["intake", "worker", "execution", "verify", "scheduler"])
    )
    error_message = "Two roles of its own."
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.verify["verify-differences"].metric_name == "verify_differences" &&
      aws_cloudwatch_metric_alarm.verify["verify-differences"].threshold == 0 &&
      aws_cloudwatch_metric_alarm.verify["verify-differences"].treat_missing_data == "ignore" &&
      aws_cloudwatch_metric_alarm.verify["verify-missing"].evaluation_periods == 168 &&
      aws_cloudwatch_metric_alarm.verify["verify-missing"].period == 3600 &&
      aws_cloudwatch_metric_alarm.verify["verify-missing"].treat_missing_data == "breaching"
    )
    error_message = "Differences and absence are told; CloudWatch looks back a week at most: 604,800 s."
  }

  assert {
    condition     = length(local.panels) == 9
    error_message = "Two more panels."
  }

  assert {
    condition     = alltrue([for group in aws_cloudwatch_log_group.this : group.retention_in_days == 7])
    error_message = "Logs are kept as long as was said."
  }
}

run "proof_every_hour" {
  command = plan
  variables {
    operations = { verify_every_hours = 1 }
  }

  assert {
    condition     = aws_scheduler_schedule.verify[0].schedule_expression == "rate(1 hour)"
    error_message = "One hour is singular."
  }
}
