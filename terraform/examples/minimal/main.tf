# One bucket, whole, to the root of one CP code. New private subnets behind the NAT gateway that is there.

terraform {
  required_version = ">= 1.11"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.90"
    }
  }
}

provider "aws" {
  region = "eu-central-1"
}

variable "secret" {
  description = "NS_HOSTNAME, NS_USER and NS_KEY of the NetStorage upload account: TF_VAR_secret, or -var."
  type        = map(string)
  sensitive   = true
  ephemeral   = true
}

module "s3nsync" {
  source = "../../modules/s3nsync"

  routes             = [{ bucket = "my-media", cpcode = "123456" }]
  secret             = var.secret
  nat_route_table_id = "rtb-0123456789abcdef0"
}

output "alarm_topic_arn" {
  description = "Subscribe to it."
  value       = module.s3nsync.alarm_topic_arn
}
