output "queue_urls" {
  description = "The queues' URLs: live, bulk, check, dead (FIFO) and failure (standard)."
  value       = module.s3nsync.queue_urls
}

output "function_name" {
  description = "The intake function's name."
  value       = module.s3nsync.function_name
}

output "function_arn" {
  description = "The intake function's ARN: what a bucket's notification calls, where manage_bucket_notification is false."
  value       = module.s3nsync.function_arn
}

output "function_archive" {
  description = "Path of the function's archive as it was built."
  value       = module.s3nsync.function_archive
}

output "image" {
  description = "The image that tasks run."
  value       = module.s3nsync.image
}

output "repository_url" {
  description = "The image repository; null where an image was given."
  value       = module.s3nsync.repository_url
}

output "cluster_name" {
  description = "The ECS cluster's name."
  value       = module.s3nsync.cluster_name
}

output "service_name" {
  description = "The ECS service's name."
  value       = module.s3nsync.service_name
}

output "routes_json" {
  description = "The routes as function and worker read them."
  value       = module.s3nsync.routes_json
}

output "worker_environment" {
  description = "The worker's settings, as its tasks get them; the secrets come on top, as NS_SECRET."
  value       = module.s3nsync.worker_environment
}

output "secret_arns" {
  description = "The secrets by upload account."
  value       = module.s3nsync.secret_arns
}

output "role_arns" {
  description = "The roles: intake, worker, execution; with a schedule for verify also verify and scheduler."
  value       = module.s3nsync.role_arns
}

output "policies" {
  description = "What each role may do, as JSON."
  value       = module.s3nsync.policies
}

output "operator_policy" {
  description = "What a person needs for `s3nsync failed`, as JSON: attach it to their role. No task and no function has it."
  value       = module.s3nsync.operator_policy
}

output "subnet_ids" {
  description = "The subnets that tasks run in."
  value       = module.s3nsync.subnet_ids
}

output "security_group_id" {
  description = "The tasks' security group: HTTPS out, nothing in."
  value       = module.s3nsync.security_group_id
}

output "kms_key_arn" {
  description = "The key that encrypts queues, secret, logs, images and alarms."
  value       = module.s3nsync.kms_key_arn
}

output "log_groups" {
  description = "The log groups: intake, worker."
  value       = module.s3nsync.log_groups
}

output "alarm_topic_arn" {
  description = "Subscribe to this topic to hear alarms."
  value       = module.s3nsync.alarm_topic_arn
}

output "dashboard_url" {
  description = "The CloudWatch dashboard."
  value       = module.s3nsync.dashboard_url
}

output "one_off_command" {
  description = "Starts one task with the worker's image, settings, role and network: here for `s3nsync doctor`, which checks the way to NetStorage from where it counts."
  value       = module.s3nsync.one_off_command
}
