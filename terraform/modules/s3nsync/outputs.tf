output "queue_urls" {
  description = "The queues' URLs: live, bulk, check, dead (FIFO) and failure (standard)."
  value = {
    live    = aws_sqs_queue.live.url
    bulk    = aws_sqs_queue.bulk.url
    check   = aws_sqs_queue.check.url
    dead    = aws_sqs_queue.dead.url
    failure = aws_sqs_queue.failure.url
  }
}

output "function_name" {
  description = "The intake function's name."
  value       = aws_lambda_function.intake.function_name
}

output "function_arn" {
  description = "The intake function's ARN: what a bucket's notification calls, where manage_bucket_notification is false."
  value       = aws_lambda_function.intake.arn
}

output "function_archive" {
  description = "Path of the function's archive as it was built."
  value       = local.archive
}

output "image" {
  description = "The image that tasks run."
  value       = local.image
}

output "repository_url" {
  description = "The image repository; null where an image was given."
  value       = one(aws_ecr_repository.this[*].repository_url)
}

output "cluster_name" {
  description = "The ECS cluster's name."
  value       = aws_ecs_cluster.this.name
}

output "service_name" {
  description = "The ECS service's name."
  value       = aws_ecs_service.worker.name
}

output "routes_json" {
  description = "The routes as function and worker read them."
  value       = local.routes_json
}

output "worker_environment" {
  description = "The worker's settings, as its tasks get them; the secrets come on top, as NS_SECRET."
  value       = local.worker_environment
}

output "secret_arns" {
  description = "The secrets by upload account."
  value       = local.secret_arns
}

output "role_arns" {
  description = "The roles: intake, worker, execution; with a schedule for verify also verify and scheduler."
  value       = { for job, role in aws_iam_role.this : job => role.arn }
}

output "policies" {
  description = "What each role may do, as JSON."
  value       = { for job, policy in aws_iam_policy.this : job => policy.policy }
}

output "operator_policy" {
  description = "What a person needs for `s3nsync failed`, as JSON: attach it to their role. No task and no function has it."
  value       = data.aws_iam_policy_document.operator.json
}

output "subnet_ids" {
  description = "The subnets that tasks run in."
  value       = local.subnet_ids
}

output "security_group_id" {
  description = "The tasks' security group: HTTPS out, nothing in."
  value       = aws_security_group.worker.id
}

output "kms_key_arn" {
  description = "The key that encrypts queues, secret, logs, images and alarms."
  value       = local.kms_key_arn
}

output "log_groups" {
  description = "The log groups: intake, worker."
  value       = { for part, group in aws_cloudwatch_log_group.this : part => group.name }
}

output "alarm_topic_arn" {
  description = "Subscribe to this topic to hear alarms."
  value       = local.alarm_topic_arn
}

output "dashboard_url" {
  description = "The CloudWatch dashboard."
  value       = "https://${local.region}.console.aws.amazon.com/cloudwatch/home?region=${local.region}#dashboards/dashboard/${aws_cloudwatch_dashboard.this.dashboard_name}"
}

output "one_off_command" {
  description = "Starts one task with the worker's image, settings, role and network: here for `s3nsync doctor`, which checks the way to NetStorage from where it counts."
  value = join(" ", [
    "aws ecs run-task --region ${local.region} --cluster ${aws_ecs_cluster.this.name} --launch-type FARGATE",
    "--task-definition ${aws_ecs_task_definition.worker.family}",
    "--network-configuration 'awsvpcConfiguration={subnets=[${join(",", local.subnet_ids)}],securityGroups=[${aws_security_group.worker.id}],assignPublicIp=DISABLED}'",
    "--overrides '{\"containerOverrides\":[{\"name\":\"worker\",\"command\":[\"doctor\"]}]}'",
  ])
}
